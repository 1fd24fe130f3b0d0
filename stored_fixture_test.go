// SPDX-License-Identifier: MPL-2.0

//go:build fixture

package databricks

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-databricks/internal/simulator"
)

const fixtureDir = "testdata/v0.1.0"

// TestWriteFixtures writes the files of fixtureDir: what a mount of each kind has stored when it has all kinds of leases, static
// roles and open entries of the write-ahead log.
//
// It was run on commit f8d87bd, which is v0.1.0:
//
//	go test -tags fixture -count=1 -run TestWriteFixtures .
//
// It must not be run again for that directory: files that later code writes prove nothing about storage that earlier code wrote. To
// make the fixture of a new version, change fixtureDir, version and commit, run it on that version before anything is changed, and
// add a test of its files next to that of these.
func TestWriteFixtures(t *testing.T) {
	const version, commit = "v0.1.0", "f8d87bd"
	for name, build := range map[string]func(*fixtureMaker){
		"pat": (*fixtureMaker).pat, "oauth-m2m": (*fixtureMaker).oauthM2M, "account": (*fixtureMaker).account,
		"azure-client-secret": (*fixtureMaker).azure, "oidc": (*fixtureMaker).oidc,
	} {
		t.Run(name, func(t *testing.T) {
			var opts []simulator.Option
			switch name {
			case "account":
				opts = append(opts, simulator.WithAccount(testAccountID))
			case "azure-client-secret":
				opts = append(opts, simulator.WithCloud("azure"))
			}
			m, c := newTimedMount(t, opts...)
			c.advance(time.Now().Add(-2 * time.Minute).Truncate(time.Second).Sub(c.now())) // what goes by the machine's clock is to fit
			f := &fixtureMaker{mount: m, clock: c, s: &storedMount{Version: version, Commit: commit, MountID: testMountID, Host: m.workspace.URL()}}
			build(f)
			f.write(name + ".json")
		})
	}
}

// fixtureMaker fills a file.
type fixtureMaker struct {
	*mount
	clock *clock
	s     *storedMount
}

// lease notes the lease of an answer, which an act has made since before.
func (f *fixtureMaker) lease(name, path string, before []string, resp *logical.Response) {
	f.t.Helper()
	require.NotNil(f.t, resp.Secret)
	raw, err := json.Marshal(resp.Secret.InternalData)
	require.NoError(f.t, err)
	l := storedLease{
		Name: name, Path: path, Data: maps.Clone(resp.Data), TTL: int64(resp.Secret.TTL / time.Second), MaxTTL: int64(resp.Secret.MaxTTL / time.Second),
		Renewable: resp.Secret.Renewable, Revoked: effect(before, objectsOf(f.workspace)).undone(),
	}
	require.NoError(f.t, json.Unmarshal(raw, &l.Internal))
	for _, field := range []string{"token_value", "client_secret", "access_token"} {
		delete(l.Data, field)
	}
	f.s.Leases = append(f.s.Leases, l)
}

// mints makes a lease by a read, or by a write where there is data.
func (f *fixtureMaker) mints(name, path string, data map[string]any) {
	f.t.Helper()
	before := objectsOf(f.workspace)
	if data == nil {
		f.lease(name, path, before, f.read(path))
	} else {
		f.lease(name, path, before, f.mount.write(path, data))
	}
}

// opens lets a request go wrong such that it leaves one entry in the write-ahead log, and something at the workspace to be undone.
func (f *fixtureMaker) opens(name string, op logical.Operation, path string, data map[string]any, faults ...simulator.Fault) {
	f.t.Helper()
	before, entries := objectsOf(f.workspace), f.walEntries()
	for _, fault := range faults {
		f.workspace.Inject(fault)
	}
	require.Error(f.t, f.failure(f.do(op, path, data)))
	f.workspace.ClearFaults()
	f.opened(name, entries, effect(before, objectsOf(f.workspace)).undone())
}

func (f *fixtureMaker) opened(name string, before []string, rolledBack storedEffect) {
	f.t.Helper()
	for _, id := range f.walEntries() {
		if !slices.Contains(before, id) {
			f.s.Open = append(f.s.Open, storedIntent{Name: name, Key: "wal/" + id, RolledBack: rolledBack})
			before = append(before, id)
		}
	}
	require.Len(f.t, before, len(f.s.Open), "%s leaves one entry", name)
}

// pat is a mount with a personal access token of a workspace admin.
func (f *fixtureMaker) pat() {
	w := f.workspace
	w.AddGroup("readers")
	w.AddGroup("analysts")
	bi, job := w.AddServicePrincipal("bi", false), w.AddServicePrincipal("job", false)
	w.AddScope("etl", f.admin)
	w.PutSecret("etl", "theirs", []byte("the operator's"))
	w.PutACL("etl", "users", "READ")
	w.PutACL("etl", "readers", "READ")
	w.AddToken(f.admin, "the operator's", 0)
	w.AddToken(bi, "Vault role etl for alice", 0)
	w.AddOAuthSecret(job, 0)

	f.narrow(f.token, "authentication", "scim", "secrets")

	f.connect(map[string]any{"rotation_period": "24h", "ttl": "15m", "max_ttl": "2h", "request_timeout": 17, "rate_limit": 500})
	f.mount.write("config/rotate-root", nil)
	f.mount.write("config/rotate-root", nil)

	f.mount.write("roles/pat", map[string]any{"credential_type": "pat", "ttl": "10m", "max_ttl": "1h"})
	f.mount.write("roles/obo", map[string]any{"credential_type": "obo_token", "application_id": bi.ApplicationID, "scopes": "sql,jobs", "ttl": "10m", "max_ttl": "1h", "comment": "for {{.DisplayName}}"})
	f.mount.write("roles/secret", map[string]any{"credential_type": "oauth_secret", "service_principal_id": job.ID, "ttl": "10m", "max_ttl": "1h"})
	f.mount.write("roles/token", map[string]any{"credential_type": "oauth_token", "application_id": job.ApplicationID, "scopes": "sql", "ttl": "10m", "max_ttl": "20m"})
	f.mount.write("roles/principal", map[string]any{"credential_type": "service_principal", "groups": "readers,analysts", "entitlements": "workspace-access", "display_name_template": "app of {{.RoleName}}", "ttl": "10m", "max_ttl": "1h"})

	// A rotation that fails on Vault's tick, which also decides when tidy is due.
	f.mount.write("static-roles/failing", map[string]any{"credential_type": "pat", "rotation_period": "60s", "rotation_grace_period": "60s"})
	w.Inject(simulator.Fault{Path: "/api/2.0/token/create", Status: 403, ErrorCode: "PERMISSION_DENIED", Message: "no"})
	f.clock.advance(61 * time.Second)
	f.tick()
	w.ClearFaults()

	f.mount.write("static-roles/dash", map[string]any{"credential_type": "pat", "rotation_period": "24h", "rotation_grace_period": "6h", "deliver_scope": "etl", "deliver_key": "dash"})
	f.mount.write("rotate-role/dash", nil)
	f.mount.write("static-roles/report", map[string]any{"credential_type": "obo_token", "application_id": bi.ApplicationID, "rotation_schedule": "30 3 * * *", "rotation_window": "2h", "scopes": "sql", "comment": "report of {{.RoleName}}"})
	f.mount.write("rotate-role/report", nil)
	f.mount.write("static-roles/bi", map[string]any{"credential_type": "oauth_secret", "application_id": bi.ApplicationID, "rotation_period": "168h", "rotation_grace_period": "24h"})
	f.mount.write("rotate-role/bi", nil)
	f.mount.write("static-roles/manual", map[string]any{"credential_type": "pat", "lifetime": "48h"})
	f.mount.write("static-roles/late", map[string]any{"credential_type": "pat", "rotation_period": "24h", "rotation_grace_period": "1h", "deliver_scope": "etl", "deliver_key": "late"})
	w.Inject(simulator.Fault{Path: "/api/2.0/secrets/put", Status: 403, ErrorCode: "PERMISSION_DENIED", Message: "no"})
	f.mount.write("rotate-role/late", nil)
	w.ClearFaults()
	// A delivery of which it isn't known whether it was done.
	f.mount.write("static-roles/unsure", map[string]any{"credential_type": "obo_token", "application_id": bi.ApplicationID, "rotation_period": "24h", "rotation_grace_period": "1h", "deliver_scope": "etl", "deliver_key": "unsure"})
	f.mount.write("config", map[string]any{"max_retries": 0})
	w.Inject(simulator.Fault{Path: "/api/2.0/secrets/put", Reset: true, AfterEffect: true})
	w.Inject(simulator.Fault{Path: "/api/2.0/secrets/list", Offset: 1, Status: 503})
	f.mount.write("rotate-role/unsure", nil)
	w.ClearFaults()
	f.mount.write("config", map[string]any{"max_retries": 4})
	f.mount.write("static-roles/leaving", map[string]any{"credential_type": "pat", "rotation_period": "24h"})
	w.Inject(simulator.Fault{Path: "/api/2.0/token/delete", Status: 403, ErrorCode: "PERMISSION_DENIED", Message: "no"})
	require.Error(f.t, f.failure(f.do(logical.DeleteOperation, "static-roles/leaving", nil)))
	w.ClearFaults()

	stray := f.strayToken()
	f.mount.write("tidy", map[string]any{"dry_run": true})
	require.EqualValues(f.t, 1, f.awaitTidy()["found"])
	w.RevokeToken(stray)

	f.mints("pat", "creds/pat", nil)
	f.mints("obo_token", "creds/obo", nil)
	f.mints("oauth_secret", "creds/secret", nil)
	f.mints("oauth_token", "creds/token", nil)
	f.mints("service_principal", "creds/principal", nil)
	f.mints("pat, delivered", "creds/pat", map[string]any{"deliver_scope": "etl", "deliver_key": "delivered", "comment": "OPS-1"})
	f.mints("secret", "secrets/etl/leased", map[string]any{"string_value": "a leased value", "ttl": "1h"})
	f.mints("permission over another one", "acls/etl/users", map[string]any{"permission": "WRITE", "ttl": "1h"})
	f.mints("permission over none", "acls/etl/analysts", map[string]any{"permission": "MANAGE", "ttl": "1h"})
	f.mints("permission over a leased one, which ends first", "acls/etl/analysts", map[string]any{"permission": "READ", "ttl": "1h"})
	last := len(f.s.Leases) - 1
	f.s.Leases[last-1], f.s.Leases[last] = f.s.Leases[last], f.s.Leases[last-1]
	f.mount.write("acls/etl/"+bi.ApplicationID, map[string]any{"permission": "READ"})
	require.Empty(f.t, f.walEntries())

	// A create that was repeated: its lease is kept, and a twin is to be found.
	before := objectsOf(w)
	w.Inject(simulator.Fault{Path: "/api/2.0/token/create", Status: 429, Times: 1, AfterEffect: true})
	resp := f.read("creds/pat")
	both := effect(before, objectsOf(w))
	w.ClearFaults()
	mine := "token " + resp.Data["token_id"].(string)
	require.Contains(f.t, both.Puts, mine)
	require.Len(f.t, both.Puts, 2)
	twin := slices.DeleteFunc(slices.Clone(both.Puts), func(object string) bool { return object == mine })
	f.opened("a create that was repeated", nil, storedEffect{Removes: twin, Puts: []string{}})
	f.lease("pat, with a twin", "creds/pat", append(before, twin...), resp)

	f.mount.write("config", map[string]any{"max_retries": 0})
	lost := func(path string) simulator.Fault {
		return simulator.Fault{Method: "POST", Path: path, Reset: true, AfterEffect: true, Times: 1}
	}
	broken := func(path string) simulator.Fault { return simulator.Fault{Method: "POST", Path: path, Status: 503} }
	const secrets = "/api/2.0/accounts/servicePrincipals/*"
	f.opens("pat", logical.ReadOperation, "creds/pat", nil, lost("/api/2.0/token/create"))
	f.opens("obo_token", logical.ReadOperation, "creds/obo", nil, lost("/api/2.0/token-management/on-behalf-of/tokens"))
	f.opens("oauth_secret", logical.ReadOperation, "creds/secret", nil, lost(secrets))
	f.opens("oauth_token of a named service principal", logical.ReadOperation, "creds/token", nil, lost(secrets))
	f.opens("service_principal", logical.ReadOperation, "creds/principal", nil, lost("/api/2.0/preview/scim/v2/ServicePrincipals"))
	f.opens("delivery", logical.UpdateOperation, "creds/pat", map[string]any{"deliver_scope": "etl", "deliver_key": "undelivered"},
		lost("/api/2.0/secrets/put"), broken("/api/2.0/token/delete"), broken("/api/2.0/secrets/delete"))
	f.opens("secret", logical.UpdateOperation, "secrets/etl/unleased", map[string]any{"string_value": "an unleased value", "ttl": "1h"},
		lost("/api/2.0/secrets/put"), broken("/api/2.0/secrets/delete"))
	w.PutSecret("etl", "untouched", []byte("written just before"))
	f.opens("secret that was not written", logical.UpdateOperation, "secrets/etl/untouched", map[string]any{"string_value": "never stored", "ttl": "1h"},
		simulator.Fault{Method: "POST", Path: "/api/2.0/secrets/put", Reset: true})
	f.opens("permission", logical.UpdateOperation, "acls/etl/readers", map[string]any{"permission": "WRITE", "ttl": "1h"}, lost("/api/2.0/secrets/acls/put"))
	f.opens("rotation of a static role that was lost", logical.UpdateOperation, "rotate-role/dash", nil, lost("/api/2.0/token/create"))
	f.opens("rotation of the engine's own credential that was lost", logical.UpdateOperation, "config/rotate-root", nil, lost("/api/2.0/token/create"))
	f.savesButLeavesOpen("rotation of a static role that was saved", "rotate-role/report")
	f.mount.write("config", map[string]any{"max_retries": 4})
}

// savesButLeavesOpen does a rotation whose entry in the write-ahead log can't be removed: what it made is kept.
func (f *fixtureMaker) savesButLeavesOpen(name, path string) {
	f.t.Helper()
	entries := f.walEntries()
	f.storage.onEach(func(op, key string) error {
		if op == "delete" && strings.HasPrefix(key, "wal/") {
			return os.ErrDeadlineExceeded
		}
		return nil
	})
	f.mount.write(path, nil)
	f.storage.onEach(nil)
	f.opened(name, entries, effect(nil, nil))
}

// oauthM2M is a mount with an OAuth secret of a service principal that is a workspace admin.
func (f *fixtureMaker) oauthM2M() {
	w := f.workspace
	engine, bi := w.AddServicePrincipal("engine", true), w.AddServicePrincipal("bi", false)
	w.AddScope("etl", engine)
	certified := simulator.New(simulator.WithTLS())
	certified.Close()
	_, secret := w.AddOAuthSecret(engine, 0)
	f.mount.write("config", map[string]any{
		"host": w.URL(), "client_id": engine.ApplicationID, "client_secret": f.unlogged(secret),
		"rotation_schedule": "15 4 * * SUN", "rotation_window": "3h",
		"workspace_id": w.ID(), "ca_cert": certified.CACert(),
	})
	f.mount.write("config/rotate-root", nil)
	f.mount.write("config/rotate-root", nil)
	f.mount.write("roles/own", map[string]any{"credential_type": "oauth_token", "scopes": "sql"})
	f.mount.write("roles/pat", map[string]any{"credential_type": "pat", "ttl": "10m", "max_ttl": "1h"})
	f.mount.write("static-roles/bi", map[string]any{"credential_type": "oauth_secret", "application_id": bi.ApplicationID, "rotation_period": "24h", "rotation_grace_period": "12h", "deliver_scope": "etl", "deliver_key": "bi"})
	f.mount.write("rotate-role/bi", nil)

	f.strayToken()
	f.strayPrincipal()
	f.mount.write("tidy", nil)
	require.EqualValues(f.t, 2, f.awaitTidy()["deleted"])

	f.mints("oauth_token of the engine's own", "creds/own", nil)
	f.mints("pat", "creds/pat", nil)

	f.mount.write("config", map[string]any{"max_retries": 0})
	lost := simulator.Fault{Method: "POST", Path: "/api/2.0/accounts/servicePrincipals/*", Reset: true, AfterEffect: true, Times: 1}
	f.opens("rotation of a static role that was lost", logical.UpdateOperation, "rotate-role/bi", nil, lost)
	f.opens("rotation of the engine's own credential that was lost", logical.UpdateOperation, "config/rotate-root", nil, lost)
	f.savesButLeavesOpen("rotation of a static role that was saved", "rotate-role/bi")
}

// account is a mount of an account, whose own credential was made by hand and ends before its schedule says.
func (f *fixtureMaker) account() {
	w := f.workspace
	engine, job := w.AddServicePrincipal("engine", false), w.AddServicePrincipal("job", false)
	w.AddAccountAdmin(engine)
	w.SetWorkspaceMember(job, false)
	_, secret := w.AddOAuthSecret(engine, 10*24*time.Hour)
	f.mount.write("config", map[string]any{
		"host": w.URL(), "account_id": testAccountID, "client_id": engine.ApplicationID, "client_secret": f.unlogged(secret), "rotation_period": "720h",
	})
	f.mount.write("roles/secret", map[string]any{"credential_type": "oauth_secret", "application_id": job.ApplicationID, "ttl": "10m", "max_ttl": "1h"})
	f.mount.write("roles/principal", map[string]any{"credential_type": "service_principal", "ttl": "10m", "max_ttl": "1h"})
	f.mount.write("static-roles/job", map[string]any{"credential_type": "oauth_secret", "service_principal_id": job.ID, "rotation_period": "24h", "rotation_grace_period": "1h"})

	// An automatic run of tidy, which fails to remove what it finds.
	f.clock.advance(-time.Hour)
	f.tick()
	f.clock.advance(time.Hour + time.Second)
	f.strayPrincipal()
	w.Inject(simulator.Fault{Method: "DELETE", Path: "/api/2.0/accounts/*", Status: 403, ErrorCode: "PERMISSION_DENIED", Message: "no", AfterEffect: true})
	f.tick()
	require.EqualValues(f.t, 1, f.awaitTidy()["failed"])
	w.ClearFaults()
	f.mount.write("rotate-role/job", nil)

	f.mints("oauth_secret", "creds/secret", nil)
	f.mints("service_principal", "creds/principal", nil)
	f.mount.write("config", map[string]any{"max_retries": 0})
	lost := func(path string) simulator.Fault {
		return simulator.Fault{Method: "POST", Path: "/api/2.0/accounts/" + testAccountID + path, Reset: true, AfterEffect: true, Times: 1}
	}
	f.opens("oauth_secret", logical.ReadOperation, "creds/secret", nil, lost("/servicePrincipals/*"))
	f.opens("service_principal", logical.ReadOperation, "creds/principal", nil, lost("/scim/v2/ServicePrincipals"))
}

// azure has the config of an Entra application, and no more.
func (f *fixtureMaker) azure() {
	config := f.azureConfig(f.workspace.AddServicePrincipal("engine", true))
	config["azure_workspace_resource_id"] = testResourceID
	config["verify_connection"], config["disable_automated_rotation"] = false, true
	f.mount.write("config", config)
	f.mount.write("roles/pat", map[string]any{"credential_type": "pat"})
}

// oidc has the config of a federated identity, and no more.
func (f *fixtureMaker) oidc() {
	engine, issuer := f.workspace.AddServicePrincipal("engine", true), simulator.NewIssuer("ES256")
	f.workspace.AddFederationPolicy(&engine, simulator.FederationPolicy{Issuer: "https://vault.example.com", Subject: "plugin", Audiences: []string{testAudience}, JWKS: issuer.JWKS()})
	file := filepath.Join(f.t.TempDir(), "token")
	f.t.Setenv("DATABRICKS_OIDC_TOKEN_FILEPATH", file)
	token := issuer.Sign(map[string]any{"iss": "https://vault.example.com", "sub": "plugin", "aud": testAudience, "exp": f.clock.now().Add(time.Hour).Unix()})
	require.NoError(f.t, os.WriteFile(file, []byte(f.unlogged(token)), 0o600))
	f.mount.write("config", map[string]any{"host": f.workspace.URL(), "client_id": engine.ApplicationID, "identity_token_audience": testAudience, "identity_token_ttl": "30m"})
	f.mount.write("roles/own", map[string]any{"credential_type": "oauth_token", "scopes": "sql"})
}

// strayMark ends the texts of what the mount made long ago.
const strayMark = " vault:" + testMountID + ":0123456789abcdef0123456789abcdef:1"

func (f *fixtureMaker) strayToken() (id string) {
	_, id = f.workspace.AddToken(f.admin, "Vault role gone for alice"+strayMark, 0)
	return id
}

func (f *fixtureMaker) strayPrincipal() {
	f.workspace.AddServicePrincipal("Vault role gone for alice"+strayMark, false)
}

// narrow gives a token API scopes.
func (f *fixtureMaker) narrow(token string, scopes ...string) {
	f.t.Helper()
	sum := sha256.Sum256([]byte(token))
	body, err := json.Marshal(map[string]any{"token": map[string]any{"scopes": scopes}, "update_mask": "scopes"})
	require.NoError(f.t, err)
	req, err := http.NewRequest(http.MethodPatch, f.workspace.URL()+"/api/2.0/token/"+hex.EncodeToString(sum[:]), bytes.NewReader(body))
	require.NoError(f.t, err)
	req.Header.Set("Authorization", "Bearer "+token)
	resp, err := http.DefaultClient.Do(req)
	require.NoError(f.t, err)
	require.NoError(f.t, resp.Body.Close())
	require.Equal(f.t, http.StatusOK, resp.StatusCode)
}

// write completes the file by all that is stored and held now, and by what the mount answers.
func (f *fixtureMaker) write(file string) {
	f.t.Helper()
	s := f.s
	s.Storage, s.Answers = make(map[string]json.RawMessage), make(map[string]map[string]any)
	answered := func(path string) {
		resp := f.read(path)
		if resp == nil {
			return
		}
		raw, err := json.Marshal(resp.Data)
		require.NoError(f.t, err)
		var data map[string]any
		require.NoError(f.t, json.Unmarshal(raw, &data))
		s.Answers[path] = data
	}
	for _, key := range storedKeys(f.t, f.storage) {
		entry, err := f.storage.Get(f.t.Context(), key)
		require.NoError(f.t, err)
		s.Storage[key] = entry.Value
		switch kind, name, _ := strings.Cut(key, "/"); kind {
		case "role":
			answered("roles/" + name)
		case "static":
			answered("static-roles/" + name)
			if name != "leaving" {
				answered("static-creds/" + name)
			}
		}
	}
	answered("config")
	answered("status")
	answered("tidy/status")
	for _, name := range []string{"calls", "plugin_version", "last_success_time"} {
		delete(s.Answers["status"], name) // of the process
	}
	s.Workspace = f.workspace.Snapshot()
	s.Made = f.clock.now()

	var text bytes.Buffer
	encoder := json.NewEncoder(&text)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	require.NoError(f.t, encoder.Encode(s))
	// The same JSON, without what scanners of repositories take for secrets.
	hidden := strings.NewReplacer(`"dapi`, `"\u0064api`, `"dose`, `"\u0064ose`).Replace(text.String())
	require.NoError(f.t, os.MkdirAll(fixtureDir, 0o755))
	require.NoError(f.t, os.WriteFile(filepath.Join(fixtureDir, file), []byte(hidden), 0o644))
}

// undone is the effect that takes this one back.
func (e storedEffect) undone() storedEffect { return storedEffect{Removes: e.Puts, Puts: e.Removes} }
