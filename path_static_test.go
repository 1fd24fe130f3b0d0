// SPDX-License-Identifier: MPL-2.0

package databricks

import (
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-databricks/internal/credential"
	"vault-plugin-secrets-databricks/internal/simulator"
)

func TestStaticRole(t *testing.T) {
	t.Parallel()
	w := newStaticWalk(t, credential.OAuthSecret, map[string]any{
		"rotation_period": "168h", "rotation_grace_period": "24h", "scopes": "sql,jobs", "deliver_scope": "etl", "deliver_key": "bi",
	})
	w.rotation = 168 * time.Hour
	w.workspace.ResetCalls()
	made := w.clock.now().Truncate(time.Second)
	resp := w.write("static-roles/bi", w.role)
	require.Equal(t, []string{
		"GET " + principalsPath, "GET " + secretListPath, "POST " + secretsPath + "…/secrets",
		"GET " + secretListPath, "POST " + secretPutPath, "GET " + secretListPath,
	}, w.requests())
	secret := w.workspace.OAuthSecrets(w.sp)[2]
	next := made.Add(168 * time.Hour)
	require.Equal(t, map[string]any{
		"credential_type": "oauth_secret", "service_principal_id": w.sp.ID, "application_id": w.sp.ApplicationID, "scopes": []string{"sql", "jobs"}, "comment": "",
		"rotation_period": int64(604800), "rotation_schedule": "", "rotation_window": int64(0), "rotation_grace_period": int64(86400), "lifetime": int64(0),
		"deliver_scope": "etl", "deliver_key": "bi", "deliver_uc": "", "delivered": true,
		"credential_id": secret.ID, "expiry_time": rfc3339(secret.Expires), "retired_ids": []string{},
		"last_vault_rotation": rfc3339(made), "next_vault_rotation": rfc3339(next), "rotation_failures": 0, "last_rotation_error": "", "next_rotation_attempt": nil,
		"pending_error": "", "next_pending_attempt": nil, "last_vault_rotation_time": rfc3339(made), "next_vault_rotation_time": rfc3339(next),
		"next_rotation_attempt_time": nil, "next_pending_attempt_time": nil,
	}, resp.Data)
	require.Empty(t, resp.Warnings)
	require.True(t, secret.Expires.After(next.Add(24*time.Hour)), "it lives to see its successor out of its grace")
	require.Equal(t, []string{"sql", "jobs"}, secret.Scopes)
	require.Equal(t, resp.Data, w.read("static-roles/bi").Data)
	w.restartAt(w.clock)
	require.Equal(t, resp.Data, w.read("static-roles/bi").Data, "and after a restart")
	w.sound(false)

	require.Nil(t, w.read("static-roles/other"))
	w.write("static-roles/a.b-c_D", map[string]any{"credential_type": "pat"})
	require.Equal(t, []string{"a.b-c_D", "bi"}, w.list("static-roles/"))
	require.Equal(t, []string{"a.b-c_D", "bi"}, w.list("static-roles"))
	w.gone("static-roles/a.b-c_D")
	w.gone("static-roles/a.b-c_D")

	w.gone("static-roles/bi")
	w.absent()
	for _, path := range []string{"static-creds/bi", "static-creds/other"} {
		resp, err := w.do(logical.ReadOperation, path, nil)
		w.refused(resp, err, "name: there is no static role", path[len("static-creds/"):])
	}
	resp, err := w.do(logical.UpdateOperation, "rotate-role/bi", nil)
	w.refused(resp, err, `name: there is no static role "bi"`)

	var kinds []string
	for _, event := range w.sent() {
		kinds = append(kinds, string(event.Type))
		require.Empty(t, w.canaries.in(event.Event.String()))
	}
	require.Equal(t, []string{
		"databricks/config-write", "databricks/static-rotate", "databricks/static-role-write",
		"databricks/static-rotate", "databricks/static-role-write", "databricks/static-role-delete", "databricks/static-role-delete",
	}, kinds)
}

// TestStaticCreds reads the credential of each type: from memory, without a call, with whole seconds.
func TestStaticCreds(t *testing.T) {
	t.Parallel()
	for kind, fields := range map[string][]string{
		credential.PAT:         {"comment", "creation_time", "token_id", "token_value"},
		credential.OBOToken:    {"comment", "creation_time", "token_id", "token_value"},
		credential.OAuthSecret: {"client_id", "client_secret", "secret_id"},
	} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			w := newStaticWalk(t, kind, map[string]any{"rotation_period": "1h"})
			w.write("static-roles/bi", w.role)
			w.workspace.ResetCalls()
			w.storage.onEach(func(op, key string) error { t.Errorf("%s %s", op, key); return nil })
			resp := w.read("static-creds/bi")
			w.storage.onEach(nil)
			require.Empty(t, w.workspace.Calls())
			require.Nil(t, resp.Secret, "it is no lease")
			all := append(fields, "expiry_time", "host", "last_vault_rotation", "last_vault_rotation_time", "rotation_period", "scopes", "ttl")
			slices.Sort(all)
			require.Equal(t, all, slices.Sorted(maps.Keys(resp.Data)))
			require.EqualValues(t, 3600, resp.Data["rotation_period"])
			require.IsType(t, int64(0), resp.Data["ttl"])
			require.InDelta(t, 3600, resp.Data["ttl"], 2)
			require.Equal(t, w.workspace.URL(), resp.Data["host"])
			require.Equal(t, w.read("static-roles/bi").Data["expiry_time"], resp.Data["expiry_time"])
			if kind != credential.OAuthSecret {
				require.Regexp(t, `^Vault static role bi vault:`+testMountID+`:[0-9a-f]{32}:\d+:kept$`, resp.Data["comment"])
			}
			require.True(t, w.works(w.secretOf(resp)))
			w.sound(false)
			w.write("rotate-role/bi", nil)
			w.sound(true)
		})
	}
}

func TestStaticCredsOfASchedule(t *testing.T) {
	t.Parallel()
	w := newStaticWalk(t, credential.PAT, map[string]any{"rotation_schedule": "0 3 * * SAT"})
	w.write("static-roles/bi", w.role)
	creds := w.read("static-creds/bi").Data
	require.Equal(t, "0 3 * * SAT", creds["rotation_schedule"])
	require.EqualValues(t, 0, creds["rotation_period"])
	// It is Sunday, the first of March 2026, noon.
	saturday := time.Date(2026, 3, 7, 3, 0, 0, 0, time.UTC)
	require.Equal(t, rfc3339(saturday), w.read("static-roles/bi").Data["next_vault_rotation"])
	require.InDelta(t, saturday.Sub(w.clock.now()).Seconds(), creds["ttl"], 2)
}

func TestStaticRoleRefusesBadInput(t *testing.T) {
	t.Parallel()
	w := newStaticWalk(t, credential.OAuthSecret, nil)
	other := w.workspace.AddServicePrincipal("other", false)
	for name, row := range map[string]struct {
		data  map[string]any
		words []string
	}{
		"no type":                 {map[string]any{"credential_type": ""}, []string{"credential_type: is missing", "pat, obo_token, oauth_secret"}},
		"a leased type":           {map[string]any{"credential_type": "oauth_token"}, []string{`credential_type: "oauth_token" can't be static`}},
		"service_principal":       {map[string]any{"credential_type": "service_principal"}, []string{`credential_type: "service_principal" can't be static`}},
		"unknown type":            {map[string]any{"credential_type": "x"}, []string{"credential_type: "}},
		"pat of another":          {map[string]any{"credential_type": "pat"}, []string{"application_id: has no meaning for credential_type pat"}},
		"nobody":                  {map[string]any{"application_id": ""}, []string{"service_principal_id: is missing"}},
		"unknown":                 {map[string]any{"application_id": "6f5ccf28-d83a-4957-9bfb-5bbfac551410"}, []string{"application_id: there is no service principal"}},
		"two principals":          {map[string]any{"service_principal_id": other.ID}, []string{"application_id: ", "does not belong"}},
		"no number":               {map[string]any{"application_id": "", "service_principal_id": "x"}, []string{"service_principal_id: "}},
		"comment":                 {map[string]any{"comment": "x"}, []string{"comment: has no meaning for credential_type oauth_secret"}},
		"template":                {map[string]any{"credential_type": "obo_token", "comment": "{{.Nobody}}"}, []string{"comment: "}},
		"scope form":              {map[string]any{"scopes": "a b"}, []string{"scopes: "}},
		"short period":            {map[string]any{"rotation_period": 59}, []string{"rotation_period: 59s is too short"}},
		"negative period":         {map[string]any{"rotation_period": -1}, []string{"rotation_period: -1 is negative"}},
		"long period":             {map[string]any{"rotation_period": "17521h"}, []string{"rotation_period: "}},
		"fraction":                {map[string]any{"rotation_period": "60.5s"}, []string{"rotation_period: "}},
		"both":                    {map[string]any{"rotation_period": "1h", "rotation_schedule": "0 3 * * *"}, []string{"rotation_schedule: can't be used together with rotation_period"}},
		"bad cron":                {map[string]any{"rotation_schedule": "0 3 * *"}, []string{"rotation_schedule: ", "five fields"}},
		"time zone":               {map[string]any{"rotation_schedule": "CRON_TZ=Europe/Berlin 0 3 * * *"}, []string{"rotation_schedule: names a time zone"}},
		"never":                   {map[string]any{"rotation_schedule": "0 3 30 2 *"}, []string{"rotation_schedule: ", "never comes"}},
		"window alone":            {map[string]any{"rotation_window": "1h"}, []string{"rotation_window: belongs to rotation_schedule"}},
		"short window":            {map[string]any{"rotation_schedule": "0 3 * * *", "rotation_window": "59m"}, []string{"rotation_window: "}},
		"negative grace":          {map[string]any{"rotation_grace_period": -1}, []string{"rotation_grace_period: -1 is negative"}},
		"long grace":              {map[string]any{"rotation_grace_period": "17520h"}, []string{"rotation_grace_period: "}},
		"grace for five":          {map[string]any{"rotation_period": "1h", "rotation_grace_period": 3*3600 + 1}, []string{"rotation_grace_period: 3h0m1s is too long", "5 OAuth secrets", "3h at most"}},
		"grace for five, by cron": {map[string]any{"rotation_schedule": "0 3,4,9 * * *", "rotation_grace_period": 24*3600 + 1}, []string{"rotation_grace_period: 24h0m1s is too long", "24h at most"}},
		"grace and period":        {map[string]any{"rotation_period": "8760h", "rotation_grace_period": "8760h"}, []string{"rotation_grace_period: ", "the most that Databricks gives"}},
		"negative life":           {map[string]any{"lifetime": -1}, []string{"lifetime: -1 is negative"}},
		"short life":              {map[string]any{"lifetime": 59}, []string{"lifetime: 59s is too short"}},
		"long life":               {map[string]any{"lifetime": "17520h"}, []string{"lifetime: "}},
		"life and period":         {map[string]any{"rotation_period": "2h", "rotation_grace_period": "1h", "lifetime": 3*3600 - 1}, []string{"lifetime: 2h59m59s is too short", "3h"}},
		"life and window":         {map[string]any{"rotation_schedule": "0 * * * *", "rotation_window": "1h", "rotation_grace_period": "0", "lifetime": 7199}, []string{"lifetime: 1h59m59s is too short", "2h"}},
		"no key":                  {map[string]any{"deliver_scope": "etl"}, []string{"deliver_key: is missing; deliver_scope needs it"}},
		"no scope":                {map[string]any{"deliver_key": "bi"}, []string{"deliver_scope: is missing; deliver_key needs it"}},
		"bad scope":               {map[string]any{"deliver_scope": "a/b", "deliver_key": "bi"}, []string{`deliver_scope: "a/b"`}},
		"bad key":                 {map[string]any{"deliver_scope": "etl", "deliver_key": "a b"}, []string{`deliver_key: "a b"`}},
		"absent scope":            {map[string]any{"deliver_scope": "nowhere", "deliver_key": "bi"}, []string{`deliver_scope: there is no secret scope "nowhere"`, "write scopes/nowhere first"}},
	} {
		data := maps.Clone(w.role)
		maps.Copy(data, row.data)
		w.workspace.ResetCalls()
		resp, err := w.do(logical.UpdateOperation, "static-roles/bi", data)
		w.refused(resp, err, row.words...)
		for _, call := range w.workspace.Calls() {
			require.Equal(t, http.MethodGet, call.Method, name)
		}
	}
	w.absent()

	// What is just allowed.
	for _, data := range []map[string]any{
		{"rotation_period": "60s", "rotation_grace_period": "0", "lifetime": 60},
		{"rotation_period": "1h", "rotation_grace_period": "3h", "lifetime": "4h"},
		{"rotation_period": "0", "rotation_schedule": "0 * * * *", "rotation_window": "1h", "rotation_grace_period": "0", "lifetime": 7200},
		{"rotation_period": "8759h", "rotation_schedule": "", "rotation_window": "0", "rotation_grace_period": "8759h", "lifetime": 0},
	} {
		maps.Copy(w.role, data)
		w.write("static-roles/bi", w.role)
	}
	w.rotation = 8759 * time.Hour
	w.recover()
	w.sound(false)

	// A role that is refused stays as it was.
	before := w.read("static-roles/bi").Data
	resp, err := w.do(logical.UpdateOperation, "static-roles/bi", map[string]any{"deliver_scope": "nowhere", "deliver_key": "bi", "scopes": "jobs"})
	w.refused(resp, err, "write scopes/nowhere first")
	require.Equal(t, before, w.read("static-roles/bi").Data)
	w.sound(false)
}

func TestStaticRoleNeedsAConnection(t *testing.T) {
	t.Parallel()
	m, _ := newTimedMount(t)
	resp, err := m.do(logical.UpdateOperation, "static-roles/bi", map[string]any{"credential_type": "pat"})
	m.refused(resp, err, "config: ")
	require.Nil(t, m.read("static-roles/bi"))
	require.Empty(t, m.list("static-roles/"))
}

// TestStaticRoleMerges shows that a write keeps what it doesn't name, and that null resets.
func TestStaticRoleMerges(t *testing.T) {
	t.Parallel()
	w := newStaticWalk(t, credential.PAT, map[string]any{"rotation_period": "24h", "rotation_grace_period": "2h", "comment": "BI", "lifetime": "48h"})
	resp, err := w.do(logical.PatchOperation, "static-roles/bi", w.role)
	w.coded(http.StatusNotFound, resp, err, `there is no static role "bi"`)
	w.absent()
	resp = w.write("static-roles/bi", w.role)
	require.Contains(t, strings.Join(resp.Warnings, "\n"), "workspace admin", "it has all rights of the engine")
	require.NotContains(t, strings.Join(resp.Warnings, "\n"), "no schedule")
	id := resp.Data["credential_id"]

	w.clock.advance(time.Hour)
	next := resp.Data["next_vault_rotation"]
	for range 2 {
		again := w.write("static-roles/bi", w.role).Data
		require.Equal(t, id, again["credential_id"], "writing the same rotates nothing")
		require.Equal(t, next, again["next_vault_rotation"], "and keeps the time of the next rotation")
	}
	patched := w.patch("static-roles/bi", map[string]any{"rotation_grace_period": nil, "comment": nil, "lifetime": nil}).Data
	require.EqualValues(t, 3600, patched["rotation_grace_period"])
	require.Equal(t, "", patched["comment"])
	require.EqualValues(t, 0, patched["lifetime"])
	require.EqualValues(t, 86400, patched["rotation_period"])
	require.Equal(t, next, patched["next_vault_rotation"])

	// Another period counts from the last rotation.
	sooner := w.write("static-roles/bi", map[string]any{"rotation_period": "2h"}).Data
	require.Equal(t, w.moment(sooner["last_vault_rotation"]).Add(2*time.Hour), w.moment(sooner["next_vault_rotation"]))
	require.Equal(t, id, sooner["credential_id"])
	manual := w.patch("static-roles/bi", map[string]any{"rotation_period": nil})
	require.Nil(t, manual.Data["next_vault_rotation"])
	require.Contains(t, strings.Join(manual.Warnings, "\n"), "no schedule")
	w.clock.advance(24 * time.Hour)
	w.tick()
	require.Equal(t, id, w.read("static-roles/bi").Data["credential_id"])
	// One that is long over comes at the next tick.
	w.write("static-roles/bi", map[string]any{"rotation_period": "2h"})
	w.tick()
	require.NotEqual(t, id, w.read("static-roles/bi").Data["credential_id"])

	w.clock.advance(time.Hour + time.Minute)
	w.tick()
	w.sound(false)
}

// TestDeletingTheConfigMindsStaticRoles shows that a connection isn't taken away from static roles unknowingly.
func TestDeletingTheConfigMindsStaticRoles(t *testing.T) {
	t.Parallel()
	w := newStaticWalk(t, credential.OAuthSecret, map[string]any{"rotation_period": "1h"})
	w.write("static-roles/bi", w.role)
	w.write("static-roles/other", map[string]any{"credential_type": "pat", "rotation_period": "1h"})
	value := w.value()
	resp, err := w.do(logical.DeleteOperation, "config", nil)
	w.refused(resp, err, "force: is missing", "bi, other", "force=true")
	require.NotNil(t, w.read("config"))

	resp, err = w.do(logical.DeleteOperation, "config", map[string]any{"force": true})
	w.requireOK(resp, err)
	require.Equal(t, value, w.value(), "what there is can still be read")
	w.workspace.ResetCalls()
	w.clock.advance(25 * time.Hour)
	w.tick()
	require.Empty(t, w.workspace.Calls())
	require.EqualValues(t, 1, w.read("static-creds/bi").Data["ttl"])
	require.Zero(t, w.read("static-roles/bi").Data["rotation_failures"], "nothing was tried")
	for path, op := range map[string]logical.Operation{"rotate-role/bi": logical.UpdateOperation, "static-roles/bi": logical.DeleteOperation} {
		resp, err = w.do(op, path, nil)
		w.refused(resp, err, "config: this mount has no connection yet")
	}
	require.NotNil(t, w.read("static-roles/bi"))
	require.NotContains(t, w.read("static-roles/bi").Warnings, "being deleted")

	resp, err = w.do(logical.DeleteOperation, "static-roles/other", map[string]any{"force": true})
	w.requireOK(resp, err)
	require.Contains(t, strings.Join(resp.Warnings, "\n"), "may be left at "+w.workspace.URL())
	require.Nil(t, w.read("static-roles/other"))

	w.connect(map[string]any{"max_retries": 0})
	w.tick()
	require.NotEqual(t, value, w.value(), "what is overdue is rotated as soon as there is a connection")
	require.True(t, w.works(w.value()))
	w.gone("static-roles/bi")
	w.gone("config")
}

// TestStaticRolesOverTheWire walks the life of a static role over gRPC.
func TestStaticRolesOverTheWire(t *testing.T) {
	t.Parallel()
	m := newGRPCMount(t)
	m.makeReady()
	m.workspace.AddScope("etl", m.admin)
	m.write("static-roles/bi", map[string]any{"credential_type": "pat", "rotation_period": "1h", "deliver_scope": "etl", "deliver_key": "bi"})
	first := m.read("static-creds/bi").Data["token_value"]
	m.write("rotate-role/bi", nil)
	creds := m.read("static-creds/bi").Data
	require.NotEqual(t, first, creds["token_value"])
	require.EqualValues(t, 3600, creds["rotation_period"])
	for _, value := range []any{first, creds["token_value"]} {
		require.Equal(t, http.StatusOK, m.whoami(value.(string)))
	}
	m.workspace.Inject(simulator.Fault{Path: createPath, Status: 403})
	resp, err := m.do(logical.UpdateOperation, "rotate-role/bi", nil)
	m.refused(resp, err, "403")
	m.gone("static-roles/bi")
	require.Empty(t, m.minted())
	_, there := m.has("bi")
	require.False(t, there)
}

// TestStaticRoleDropsWhatBelongsTogether shows that a default grace, and half a place of delivery, never stand in the way of a write that
// doesn't name them.
func TestStaticRoleDropsWhatBelongsTogether(t *testing.T) {
	t.Parallel()
	m, _ := newTimedMount(t)
	m.connect()
	m.workspace.AddScope("etl", m.admin)
	role := m.write("static-roles/x", map[string]any{"credential_type": "pat"}).Data
	require.EqualValues(t, 3600, role["rotation_grace_period"])
	require.EqualValues(t, 60, m.write("static-roles/x", map[string]any{"rotation_period": "60s"}).Data["rotation_grace_period"])
	require.EqualValues(t, 60, m.write("static-roles/x", map[string]any{"rotation_period": "24h"}).Data["rotation_grace_period"], "it is not made longer")
	m.write("static-roles/x", map[string]any{"rotation_grace_period": "2h"})
	resp, err := m.do(logical.UpdateOperation, "static-roles/x", map[string]any{"rotation_period": "60s"})
	m.refused(resp, err, "rotation_grace_period: 2h is too long")

	for _, ended := range []map[string]any{{"deliver_scope": ""}, {"deliver_key": ""}, {"deliver_scope": nil}, {"deliver_key": nil}} {
		m.write("static-roles/x", map[string]any{"deliver_scope": "etl", "deliver_key": "k"})
		require.Len(t, m.scope("etl").Secrets, 1)
		role := m.patch("static-roles/x", ended).Data
		require.Equal(t, []any{"", "", false}, []any{role["deliver_scope"], role["deliver_key"], role["delivered"]})
		require.Empty(t, m.scope("etl").Secrets)
	}
	resp, err = m.do(logical.UpdateOperation, "static-roles/x", map[string]any{"deliver_scope": "etl"})
	m.refused(resp, err, "deliver_key: is missing; deliver_scope needs it")
}
