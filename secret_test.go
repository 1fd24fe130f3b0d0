// SPDX-License-Identifier: MPL-2.0

package databricks

import (
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-databricks/internal/simulator"
)

// spellings has what Databricks may show of a key that is written once more in another case, which isn't documented.
var spellings = map[string][]simulator.Option{"the first spelling is shown": nil, "the last spelling is shown": {simulator.WithLastSpelling()}}

// keysOf returns the keys of a scope in lower case.
func (m *mount) keysOf(scope string) []string {
	m.t.Helper()
	keys := []string{}
	for key := range m.scope(scope).Secrets {
		keys = append(keys, strings.ToLower(key))
	}
	slices.Sort(keys)
	return keys
}

// valueOf returns the value of a key of the scope etl, in whatever spelling it is shown.
func (m *mount) valueOf(key string) string {
	m.t.Helper()
	for shown, secret := range m.scope("etl").Secrets {
		if strings.EqualFold(shown, key) {
			return string(secret.Value)
		}
	}
	require.Fail(m.t, "there is no key "+key)
	return ""
}

// TestKeysWithSlashesInEverySpelling goes through all that can be done with a key.
func TestKeysWithSlashesInEverySpelling(t *testing.T) {
	t.Parallel()
	for name, opts := range spellings {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := withScope(t, opts...)
			plain := m.write("secrets/etl/team/db/password", map[string]any{"string_value": "canary-1"})
			require.Equal(t, map[string]any{"scope": "etl", "key": "team/db/password"}, plain.Data)
			m.write("secrets/ETL/Team/DB/Password", map[string]any{"string_value": "canary-2"})
			read := m.read("secrets/etl/TEAM/db/password").Data
			require.Equal(t, "canary-2", read["string_value"])
			require.Equal(t, "TEAM/db/password", read["key"])
			for _, ttl := range []string{"", "1h"} {
				data := map[string]any{"string_value": "canary-3", "if_absent": true}
				if ttl != "" {
					data["ttl"] = ttl
				}
				resp, err := m.do(logical.UpdateOperation, "secrets/etl/team/DB/password", data)
				m.refused(resp, err, "if_absent: secret etl/team/DB/password already exists")
			}
			require.Equal(t, []string{"team/db/password"}, m.keysOf("etl"))

			lease := m.write("secrets/etl/team/db/PASSWORD", leasedValue).Secret
			again := m.write("secrets/etl/TEAM/DB/password", leasedValue).Secret
			m.end(lease)
			require.Equal(t, "canary-leased", m.valueOf("team/db/password"), "a later lease has overwritten it")
			m.end(again)
			require.Empty(t, m.keysOf("etl"))
			require.Empty(t, m.records())

			m.write("secrets/etl/Team/DB", map[string]any{"string_value": "canary-4"})
			m.gone("secrets/etl/team/db")
			require.Empty(t, m.keysOf("etl"))
			require.Nil(t, m.read("secrets/etl/team/db"))
			m.gone("secrets/etl/team/db")

			creds := m.write("creds/etl", map[string]any{"deliver_scope": "etl", "deliver_key": "team/Token"})
			require.Equal(t, "team/Token", creds.Data["deliver_key"])
			require.Equal(t, http.StatusOK, m.whoami(m.valueOf("team/token")))
			next := m.write("creds/etl", map[string]any{"deliver_scope": "Etl", "deliver_key": "TEAM/token"})
			m.end(creds.Secret)
			require.Equal(t, http.StatusOK, m.whoami(m.valueOf("team/token")))
			m.end(next.Secret)
			require.Empty(t, m.keysOf("etl"))

			role := map[string]any{"credential_type": "pat", "rotation_period": "24h", "deliver_scope": "etl", "deliver_key": "team/Static"}
			m.write("static-roles/bi", role)
			role["deliver_key"] = "TEAM/static"
			resp, err := m.do(logical.UpdateOperation, "static-roles/other", role)
			m.refused(resp, err, `deliver_key: etl/TEAM/static is where static role "bi" delivers to`)
			resp, err = m.do(logical.UpdateOperation, "secrets/etl/Team/static", leasedValue)
			m.refused(resp, err, "key: etl/Team/static is where a static role delivers")
			resp, err = m.do(logical.UpdateOperation, "creds/etl", map[string]any{"deliver_scope": "ETL", "deliver_key": "team/STATIC"})
			m.refused(resp, err, "deliver_key: ETL/team/STATIC is where a static role delivers")
			first := m.valueOf("team/static")
			m.write("rotate-role/bi", nil)
			require.NotEqual(t, first, m.valueOf("team/static"))
			require.Equal(t, http.StatusOK, m.whoami(m.valueOf("team/static")))
			m.write("static-roles/bi", map[string]any{"deliver_key": "Team/static"})
			require.Equal(t, true, m.read("static-roles/bi").Data["delivered"])
			m.gone("static-roles/bi")
			require.Empty(t, m.keysOf("etl"))
		})
	}
}

// TestPushesOfKeysWithSlashes shows that they are written, pruned and kept as others are.
func TestPushesOfKeysWithSlashes(t *testing.T) {
	t.Parallel()
	for name, opts := range spellings {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := withScope(t, opts...)
			m.workspace.PutSecret("etl", "Team/DB", []byte("v"))
			m.workspace.PutSecret("etl", "team/old", []byte("v"))
			m.workspace.PutSecret("etl", "team//unnameable", []byte("v"))
			lease := m.write("secrets/etl/Team/Leased", leasedValue).Secret
			data := map[string]any{"secrets": map[string]any{"team/db": "canary-1"}, "bytes": map[string]any{"team/sub/raw": "AAE="}, "prune": true, "dry_run": true}
			want := map[string]any{"written": []string{"team/db", "team/sub/raw"}, "deleted": []string{"team/old"}, "kept": []string{"Team/Leased", "team//unnameable"}}
			require.Equal(t, want, m.write("secrets/etl", data).Data)
			delete(data, "dry_run")
			require.Equal(t, want, m.write("secrets/etl", data).Data)
			require.Equal(t, []string{"team//unnameable", "team/db", "team/leased", "team/sub/raw"}, m.keysOf("etl"))
			require.Equal(t, "canary-1", m.valueOf("team/db"))
			m.end(lease)

			// A push over what a lease holds is a write like any other.
			lease = m.write("secrets/etl/team/LEASED", leasedValue).Secret
			m.write("secrets/etl", map[string]any{"secrets": map[string]any{"Team/leased": "canary-2"}})
			m.end(lease)
			require.Equal(t, "canary-2", m.valueOf("team/leased"))
		})
	}
}

// TestWritesOfKeysWithSlashesThatFail leaves the undoing to the rollback.
func TestWritesOfKeysWithSlashesThatFail(t *testing.T) {
	t.Parallel()
	for name, opts := range spellings {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := withScope(t, opts...)
			m.strand("secrets/etl/Team/DB", leasedValue)
			m.rolledBack()
			require.Empty(t, m.keysOf("etl"))

			m.strand("secrets/etl/Team/DB", leasedValue)
			m.write("secrets/etl/team/db", map[string]any{"string_value": "canary-plain"})
			m.rolledBack()
			require.Equal(t, "canary-plain", m.valueOf("team/db"), "it was written in another spelling since")
		})
	}
}

// TestListsOfKeysWithSlashes are flat, each name in them a key that can be read below the path of the list.
func TestListsOfKeysWithSlashes(t *testing.T) {
	t.Parallel()
	m := withScope(t)
	for _, key := range []string{"a", "team", "Team/DB", "team/sub/x", "team/sub/y", "teams/z"} {
		m.workspace.PutSecret("etl", key, []byte("v"))
	}
	for path, want := range map[string][]string{
		"secrets/etl/": {"Team/DB", "a", "team", "team/sub/x", "team/sub/y", "teams/z"}, "secrets/etl/team/": {"DB", "sub/x", "sub/y"},
		"secrets/ETL/TEAM/SUB/": {"x", "y"}, "secrets/etl/team/s/": nil, "secrets/etl/a/": nil, "secrets/nowhere/team/": nil,
	} {
		m.workspace.ResetCalls()
		resp, err := m.do(logical.ListOperation, path, nil)
		m.requireOK(resp, err)
		if want == nil {
			require.True(t, resp == nil || len(resp.Data) == 0, path)
			continue
		}
		require.ElementsMatch(t, want, resp.Data["keys"], path)
		require.ElementsMatch(t, want, slices.Collect(maps.Keys(resp.Data["key_info"].(map[string]any))), path)
		require.Len(t, m.workspace.Calls(), 1)
		for _, name := range want {
			require.NotNil(t, m.read(path+name), path+name)
		}
	}
	m.workspace.ResetCalls()
	for _, path := range []string{"secrets/etl/a b/", "secrets/etl/team/../x/", "secrets/etl/team//", "secrets/etl/" + strings.Repeat("k", 129) + "/"} {
		resp, err := m.do(logical.ListOperation, path, nil)
		m.refused(resp, err, "prefix: ", "no valid name")
	}
	require.Empty(t, m.workspace.Calls())
	m.workspace.Inject(simulator.Fault{Path: secretListPath, Status: 403, ErrorCode: "PERMISSION_DENIED"})
	resp, err := m.do(logical.ListOperation, "secrets/etl/team/", nil)
	m.refused(resp, err, "needs READ")
}

// TestKeysThatCantBeAddressed are refused wherever a key is sent: a push or a delivery could write what no path can read or delete.
func TestKeysThatCantBeAddressed(t *testing.T) {
	t.Parallel()
	m := withScope(t)
	m.workspace.ResetCalls()
	for _, key := range []string{"/a", "a//b", "a/", "/", "./a", "a/.", "a/../b", "../a", "a/..", "a b/c", "ä/b", strings.Repeat("k/", 64) + "k"} {
		for path, row := range map[string]struct {
			field string
			data  map[string]any
		}{
			"secrets/etl":     {"secrets", map[string]any{"secrets": map[string]any{key: "canary-1", "ok": "canary-2"}}},
			"creds/etl":       {"deliver_key", map[string]any{"deliver_scope": "etl", "deliver_key": key}},
			"static-roles/bi": {"deliver_key", map[string]any{"credential_type": "pat", "rotation_period": "24h", "deliver_scope": "etl", "deliver_key": key}},
		} {
			resp, err := m.do(logical.UpdateOperation, path, row.data)
			m.refused(resp, err, row.field+": ", "no valid name", "between and after slashes")
		}
		for _, op := range []logical.Operation{logical.UpdateOperation, logical.ReadOperation, logical.DeleteOperation} {
			var data map[string]any
			if op == logical.UpdateOperation {
				data = map[string]any{"string_value": "canary-1"}
			}
			resp, err := m.do(op, "secrets/etl/"+key, data)
			switch {
			case key == "/" || strings.HasSuffix(key, "/"):
				m.refused(resp, err, "key: ", "ends in a slash")
			default:
				m.refused(resp, err, "key: ", "no valid name")
			}
		}
	}
	// A longest key, and one with as many slashes as it can have.
	require.Empty(t, m.workspace.Calls())
	for _, key := range []string{strings.Repeat("k", 128), strings.Repeat("k/", 63) + "kk", ".a/..b/c.", "@/-/_"} {
		m.write("secrets/etl/"+key, map[string]any{"string_value": "canary-1"})
		require.NotNil(t, m.read("secrets/etl/"+key), key)
		m.gone("secrets/etl/" + key)
	}
	resp, err := m.do(logical.UpdateOperation, "secrets/etl/a/..b", leasedValue)
	m.refused(resp, err, "key: ", "two consecutive dots")
	require.Empty(t, m.keysOf("etl"))
}
