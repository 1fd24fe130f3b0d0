// SPDX-License-Identifier: MPL-2.0

package databricks

import (
	"errors"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-databricks/internal/simulator"
)

func TestRoles(t *testing.T) {
	t.Parallel()
	m := newMount(t)
	resp, err := m.do(logical.ReadOperation, "roles/etl", nil)
	require.NoError(t, err)
	require.Nil(t, resp, "an absent role is a 404")
	resp, err = m.do(logical.PatchOperation, "roles/etl", map[string]any{"ttl": "1m"})
	m.coded(http.StatusNotFound, resp, err, "etl")

	// A role may be written before the connection.
	written := m.write("roles/etl", map[string]any{"credential_type": "pat", "scopes": "sql,clusters,sql", "ttl": "10m", "max_ttl": 3600, "comment": "for {{.EntityName}}"})
	want := map[string]any{"credential_type": "pat", "scopes": []string{"sql", "clusters"}, "ttl": int64(600), "max_ttl": int64(3600), "comment": "for {{.EntityName}}",
		"service_principal_id": "", "application_id": "", "groups": []string{}, "entitlements": []string{}, "display_name_template": "",
		"assume_group": "", "assume_group_id": "", "database_endpoint": "", "database_instances": []string{}, "database_host": "", "claims": []string{}}
	require.Equal(t, want, written.Data)
	require.Equal(t, want, m.read("roles/etl").Data)

	m.write("roles/etl", map[string]any{"ttl": "20m"})
	want["ttl"] = int64(1200)
	require.Equal(t, want, m.read("roles/etl").Data)

	resp, err = m.do(logical.PatchOperation, "roles/etl", map[string]any{"comment": nil, "scopes": nil, "max_ttl": nil})
	m.requireOK(resp, err)
	want["comment"], want["scopes"], want["max_ttl"] = "", []string{}, int64(0)
	require.Equal(t, want, m.read("roles/etl").Data)

	m.write("roles/bi.eu-1", map[string]any{"credential_type": "pat"})
	resp, err = m.do(logical.ListOperation, "roles", nil)
	m.requireOK(resp, err)
	require.Equal(t, []string{"bi.eu-1", "etl"}, resp.Data["keys"])

	for range 2 {
		resp, err = m.do(logical.DeleteOperation, "roles/etl", nil)
		m.requireOK(resp, err)
		resp, err = m.do(logical.ReadOperation, "roles/etl", nil)
		require.NoError(t, err)
		require.Nil(t, resp)
	}
}

func TestRolesRefuseBadInput(t *testing.T) {
	t.Parallel()
	m := newMount(t)
	for name, row := range map[string]struct {
		data  map[string]any
		words []string
	}{
		"no type":              {map[string]any{}, []string{"credential_type: is missing", "pat"}},
		"unknown type":         {map[string]any{"credential_type": "password"}, []string{`credential_type: "password" is unknown`, "pat"}},
		"ttl over max_ttl":     {map[string]any{"credential_type": "pat", "ttl": "2h", "max_ttl": "1h"}, []string{"ttl: ", "max_ttl"}},
		"ttl for ever":         {map[string]any{"credential_type": "pat", "ttl": "1000000h"}, []string{"ttl: ", "730d"}},
		"max_ttl for ever":     {map[string]any{"credential_type": "pat", "max_ttl": "1000000h"}, []string{"max_ttl: ", "730d"}},
		"negative ttl":         {map[string]any{"credential_type": "pat", "ttl": "-1s"}, []string{"ttl: "}},
		"scope with a space":   {map[string]any{"credential_type": "pat", "scopes": []string{"sql clusters"}}, []string{"scopes: ", "sql clusters"}},
		"scope with a newline": {map[string]any{"credential_type": "pat", "scopes": []string{"s\nql"}}, []string{"scopes: "}},
		"unknown field":        {map[string]any{"credential_type": "pat", "comment": "{{.Password}}"}, []string{"comment: ", ".RoleName"}},
		"broken template":      {map[string]any{"credential_type": "pat", "comment": "{{.RoleName"}, []string{"comment: "}},
		"unknown function":     {map[string]any{"credential_type": "pat", "comment": "{{env `HOME`}}"}, []string{"comment: "}},
		"template that loops":  {map[string]any{"credential_type": "pat", "comment": "{{range 1000000000}}x{{end}}"}, []string{"comment: may not loop"}},
		"template that swells": {map[string]any{"credential_type": "pat", "comment": "{{random 1000000000}}"}, []string{"comment: ", "1 to 64"}},
		"fraction of a second": {map[string]any{"credential_type": "pat", "ttl": "0.9s"}, []string{"ttl: ", "whole number of seconds"}},
		"template that grows":  {map[string]any{"credential_type": "pat", "comment": `{{.RoleName` + strings.Repeat(` | replace "e" "eeeeeeeeee"`, 12) + `}}`}, []string{"comment: ", "1024"}},
		"template that prints": {map[string]any{"credential_type": "pat", "comment": `{{printf "%1000000d" 1}}`}, []string{"comment: ", "printf is not available"}},
		"long template":        {map[string]any{"credential_type": "pat", "comment": strings.Repeat("x", maxTemplate+1)}, []string{"comment: ", "1024"}},
	} {
		t.Run(name, func(t *testing.T) {
			resp, err := m.do(logical.UpdateOperation, "roles/etl", row.data)
			m.refused(resp, err, row.words...)
			keys, err := m.storage.List(t.Context(), "")
			require.NoError(t, err)
			require.Empty(t, keys, "nothing is stored")
		})
	}
	_, err := m.do(logical.UpdateOperation, "roles/../config", map[string]any{"credential_type": "pat"})
	require.ErrorIs(t, err, logical.ErrUnsupportedPath)
}

func TestRoleWarnings(t *testing.T) {
	t.Parallel()
	m := newMount(t)
	role := map[string]any{"credential_type": "pat"}
	require.Len(t, m.write("roles/etl", role).Warnings, 1, "that nothing is known of the engine's identity yet")
	m.connect()
	require.Contains(t, strings.Join(m.write("roles/etl", role).Warnings, "\n"), "engine@example.com, who is a workspace admin")
	require.Contains(t, strings.Join(m.write("roles/etl", map[string]any{"scopes": "authentication"}).Warnings, "\n"), `scope "authentication"`)

	token, _ := m.workspace.AddToken(m.workspace.AddUser("modest@example.com", false), "the engine's own", 0)
	m.write("config", map[string]any{"token": token})
	require.Empty(t, m.write("roles/modest", role).Warnings)
	warnings := strings.Join(m.write("roles/modest", map[string]any{"ttl": "5h", "max_ttl": "6h"}).Warnings, "\n")
	require.Contains(t, warnings, "ttl of 5h is more than the mount's maximum of 4h,")
	require.Contains(t, warnings, "max_ttl of 6h is")
}

func TestRolesWithBrokenStorage(t *testing.T) {
	t.Parallel()
	m := ready(t)
	m.backend.InvalidateKey(t.Context(), "role/etl")
	m.storage.onEach(func(op, key string) error { return errors.New("no quorum") })
	for _, op := range []logical.Operation{logical.ReadOperation, logical.UpdateOperation, logical.PatchOperation, logical.DeleteOperation} {
		data := map[string]any{"ttl": "1m"}
		if op == logical.DeleteOperation {
			data = nil
		}
		_, err := m.do(op, "roles/etl", data)
		require.ErrorContains(t, err, "no quorum", op)
	}
	_, err := m.do(logical.ListOperation, "roles", nil)
	require.ErrorContains(t, err, "no quorum")
	_, err = m.do(logical.ReadOperation, "creds/etl", nil)
	require.ErrorContains(t, err, "no quorum")

	m.storage.onEach(func(op, key string) error {
		if op == "put" {
			return errors.New("disk full")
		}
		return nil
	})
	_, err = m.do(logical.UpdateOperation, "roles/etl", map[string]any{"ttl": "1m"})
	require.ErrorContains(t, err, "disk full")
	m.storage.onEach(nil)
	require.EqualValues(t, 600, m.read("roles/etl").Data["ttl"])

	// A write that fails after it was carried out counts.
	m.storage.afterEach(func(op, key string) error { return errors.New("leadership lost") })
	_, err = m.do(logical.UpdateOperation, "roles/etl", map[string]any{"ttl": "1m"})
	require.ErrorContains(t, err, "leadership lost")
	_, err = m.do(logical.UpdateOperation, "config", map[string]any{"ttl": "3m"})
	require.ErrorContains(t, err, "leadership lost")
	m.storage.afterEach(nil)
	require.EqualValues(t, 60, m.read("roles/etl").Data["ttl"])
	conn, err := m.backend.(*backend).connection(t.Context(), m.storage)
	require.NoError(t, err)
	require.EqualValues(t, 180, conn.config.TTL)

	require.NoError(t, m.storage.Put(t.Context(), &logical.StorageEntry{Key: "role/broken", Value: []byte("{")}))
	_, err = m.do(logical.ReadOperation, "roles/broken", nil)
	require.ErrorContains(t, err, "broken")
}

// TestRolesAtOnce writes and reads one role from many goroutines: no write may be lost or half seen.
func TestRolesAtOnce(t *testing.T) {
	t.Parallel()
	m := newMount(t)
	m.write("roles/etl", map[string]any{"credential_type": "pat", "ttl": 60, "max_ttl": 60})
	var wg sync.WaitGroup
	for i := range 50 {
		wg.Go(func() {
			if i%5 == 0 {
				m.backend.InvalidateKey(t.Context(), "role/etl")
			}
			resp, err := m.do(logical.UpdateOperation, "roles/etl", map[string]any{"ttl": i + 1, "max_ttl": i + 1})
			if err != nil || resp.IsError() {
				t.Errorf("%v %v", resp, err)
			}
			seen, err := m.do(logical.ReadOperation, "roles/etl", nil)
			if err != nil || seen.Data["ttl"] != seen.Data["max_ttl"] {
				t.Errorf("%v %v", seen, err)
			}
		})
	}
	wg.Wait()
	cached := m.read("roles/etl").Data
	m.backend.InvalidateKey(t.Context(), "role/etl")
	require.Equal(t, m.read("roles/etl").Data, cached, "memory and storage agree")
}

// FuzzNarrowScopes shows that no input widens a role.
func FuzzNarrowScopes(f *testing.F) {
	f.Add("sql,clusters", "sql")
	f.Add("sql", "")
	f.Add("", "all-apis")
	f.Add("sql", "SQL")
	f.Add("sql", "sql ,all-apis")
	f.Fuzz(func(t *testing.T, roleScopes, askedScopes string) {
		allowed, err := cleanScopes(strings.FieldsFunc(roleScopes, func(r rune) bool { return r == ',' }))
		if err != nil {
			return
		}
		got, err := narrowScopes(allowed, strings.Split(askedScopes, ","))
		if err != nil || len(allowed) == 0 {
			return
		}
		if len(got) == 0 {
			t.Fatalf("%q asked of %q gives none, which Databricks takes for all", askedScopes, roleScopes)
		}
		for _, scope := range got {
			if !slices.Contains(allowed, scope) {
				t.Fatalf("%q asked of %q gives %q", askedScopes, roleScopes, scope)
			}
		}
	})
}

// TestListsHaveDetails shows what a list of each kind tells, of what can't be read, too.
func TestListsHaveDetails(t *testing.T) {
	t.Parallel()
	m, c := newTimedMount(t)
	m.connect()
	m.write("roles/etl", map[string]any{"credential_type": "pat", "ttl": "10m", "max_ttl": "1h"})
	m.write("roles/app", map[string]any{"credential_type": "service_principal"})
	m.write("static-roles/bi", map[string]any{"credential_type": "pat", "rotation_period": "1h"})
	m.write("static-roles/hand", map[string]any{"credential_type": "pat"})
	for _, key := range []string{"role/broken", "static/broken"} {
		require.NoError(t, m.storage.Put(t.Context(), &logical.StorageEntry{Key: key, Value: []byte("{")}))
	}
	list := func(path string) (keys []string, info map[string]any) {
		t.Helper()
		resp, err := m.do(logical.ListOperation, path, nil)
		m.requireOK(resp, err)
		return resp.Data["keys"].([]string), resp.Data["key_info"].(map[string]any)
	}
	for range 2 {
		keys, info := list("roles")
		require.Equal(t, []string{"app", "broken", "etl"}, keys)
		require.Equal(t, map[string]any{"credential_type": "pat", "ttl": int64(600), "max_ttl": int64(3600)}, info["etl"])
		require.Equal(t, map[string]any{"credential_type": "service_principal", "ttl": int64(0), "max_ttl": int64(0)}, info["app"])
		require.Contains(t, info["broken"].(map[string]any)["error"], `the stored role "broken" cannot be read`)

		keys, info = list("static-roles")
		require.Equal(t, []string{"bi", "broken", "hand"}, keys)
		role := m.read("static-roles/bi").Data
		require.Equal(t, map[string]any{
			"credential_type": "pat", "rotation_failures": 0, "expiry_time": role["expiry_time"], "last_vault_rotation": role["last_vault_rotation"], "next_vault_rotation": role["next_vault_rotation"],
		}, info["bi"])
		require.Nil(t, info["hand"].(map[string]any)["next_vault_rotation"])
		require.Contains(t, info["broken"].(map[string]any)["error"], `the stored static role "broken" cannot be read`)
		m.restartAt(c) // nothing is in memory
	}

	m.workspace.Inject(simulator.Fault{Path: createPath, Status: 500})
	m.write("config", map[string]any{"max_retries": 0})
	c.advance(2 * time.Hour)
	m.tick()
	_, info := list("static-roles")
	require.Equal(t, 1, info["bi"].(map[string]any)["rotation_failures"])

	m.workspace.ClearFaults()
	m.mint("etl")
	list("roles")
	require.NotContains(t, m.backend.(*backend).roles.entries, "role/app", "a list keeps nothing in memory")
}
