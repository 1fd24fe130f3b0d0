// SPDX-License-Identifier: MPL-2.0

//go:build e2e

package e2e

import (
	"archive/zip"
	"bytes"
	"encoding/json"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-databricks/internal/simulator"
)

const (
	// firstRelease is the commit of v0.1.0, the first version whose storage others have.
	firstRelease = "f8d87bdaa70a0761a193440d28ffc7904996699f"

	// releasedVersion is what the plugin that is built from it calls itself. No build of the working tree does.
	releasedVersion = "v0.1.0-f8d87bd"
)

// buildRelease builds the plugin of firstRelease into a file. It skips the test where git doesn't have that commit.
func buildRelease(t *testing.T, file string) {
	t.Helper()
	const root = "../.."
	if out, err := exec.Command("git", "-C", root, "cat-file", "-e", firstRelease+"^{commit}").CombinedOutput(); err != nil {
		t.Skipf("NO UPGRADE WAS TESTED: the plugin of v0.1.0 is built from commit %s, which this clone does not have (%v %s). "+
			"If it is a shallow one, get the commit with: git fetch --unshallow", firstRelease, err, bytes.TrimSpace(out))
	}
	dir := t.TempDir()
	archive := filepath.Join(dir, "release.zip")
	out, err := exec.Command("git", "-C", root, "archive", "--format=zip", "-o", archive, firstRelease).CombinedOutput()
	require.NoError(t, err, "%s", out)
	packed, err := zip.OpenReader(archive)
	require.NoError(t, err)
	defer packed.Close()
	source := filepath.Join(dir, "source")
	require.NoError(t, os.CopyFS(source, packed))

	args := []string{"build", "-buildvcs=false", "-ldflags", "-X " + pluginName + ".Version=" + releasedVersion, "-o", file}
	if raceEnabled {
		args = append(args, "-race")
	}
	build := exec.Command("go", append(args, "./cmd/"+pluginName)...)
	build.Dir = source
	out, err = build.CombinedOutput()
	require.NoError(t, err, "%s", out)
}

// upgraded is a mount that an earlier version of the plugin has filled.
type upgraded struct {
	*mount
	engine  simulator.Principal
	scope   string            // that it delivers to; the engine may manage it
	apps    map[string]string // by role, application id of the service principal that it names
	leases  []*heldLease
	statics []string                     // names of static roles which are rotated by hand only, for as long as the test takes
	retired map[string]*sharedCredential // by static role, the one that was replaced and is in its grace
	orphan  string                       // id of a token that was made, and whose lease was not
	answers map[string]map[string]any    // to reads that ask nothing of Databricks, by path
	tokens  map[string]any               // as listed
}

// heldLease is a lease, and whether what it is for is there now.
type heldLease struct {
	*api.Secret
	name  string
	alive func() bool
}

func newUpgraded(m *mount, engine simulator.Principal, scope string) *upgraded {
	return &upgraded{
		mount: m, engine: engine, scope: scope,
		apps: make(map[string]string), retired: make(map[string]*sharedCredential), answers: make(map[string]map[string]any),
	}
}

// prepare makes what must be at the workspace before anything is written to the mount.
func (u *upgraded) prepare() {
	u.workspace.AddScope(u.scope, u.engine)
	u.workspace.PutSecret(u.scope, "theirs", []byte("the operator's"))
	u.workspace.PutACL(u.scope, "readers", "READ")
	for _, role := range []string{"obo", "secret", "token", "report", "bi"} {
		app := u.workspace.AddServicePrincipal(role, false)
		u.workspace.SetTokenPermission(app, true)
		u.apps[role] = app.ApplicationID
	}
}

// fill configures the mount, and makes a role, a live lease and a static role of every kind.
func (u *upgraded) fill(config data) {
	u.t.Helper()
	for field, value := range map[string]any{"host": u.workspace.URL(), "rotation_period": "24h", "ttl": "1h", "max_ttl": "2h", "request_timeout": 47, "rate_limit": 500} {
		config[field] = value
	}
	u.write("config", config)
	u.write("config/rotate-root", nil)

	common := func(credentialType string, more data) data {
		body := data{"credential_type": credentialType, "scopes": "scim,sql", "ttl": "1h", "max_ttl": "2h"}
		maps.Copy(body, more)
		return body
	}
	u.write("roles/pat", common("pat", data{"comment": "for {{.DisplayName}}"}))
	u.write("roles/obo", common("obo_token", data{"application_id": u.apps["obo"]}))
	u.write("roles/secret", common("oauth_secret", data{"application_id": u.apps["secret"]}))
	u.write("roles/token", common("oauth_token", data{"application_id": u.apps["token"]}))
	u.write("roles/principal", common("service_principal", data{"groups": "readers", "entitlements": "workspace-access", "display_name_template": "app of {{.RoleName}}"}))
	roles := []string{"pat", "obo", "secret", "token", "principal"}
	if _, isToken := config["token"]; !isToken {
		u.write("roles/own", common("oauth_token", nil))
		roles = append(roles, "own")
	}

	for _, role := range roles {
		secret := u.mint(role)
		u.holds(secret, role, func() bool { return u.usable(&sharedCredential{answer: secret.Data, secret: secretPartOf(secret)}) })
	}
	u.holds(u.write("creds/pat", data{"deliver_scope": u.scope, "deliver_key": "delivered"}), "pat, delivered", func() bool {
		value, _ := u.value(u.scope, "delivered")
		return value != "" && u.works(u.server.secret(value, "a delivered token"))
	})
	leased := u.server.secret("leased-before-the-upgrade-"+u.scope, "a leased secret")
	u.holds(u.write("secrets/"+u.scope+"/leased", data{"string_value": leased, "ttl": "1h"}), "secret", func() bool {
		value, _ := u.value(u.scope, "leased")
		return value == leased
	})
	u.holds(u.write("acls/"+u.scope+"/readers", data{"permission": "WRITE", "ttl": "1h"}), "permission", func() bool {
		return u.permission(u.scope, "readers") == "WRITE"
	})

	far := time.Now().UTC().Add(12 * time.Hour)
	u.static("dash", data{"credential_type": "pat", "rotation_period": "24h", "rotation_grace_period": "6h", "deliver_scope": u.scope, "deliver_key": "dash"})
	u.static("report", data{
		"credential_type": "obo_token", "application_id": u.apps["report"], "rotation_schedule": far.Format("4 15") + " * * *",
		"rotation_window": "2h", "scopes": "scim", "comment": "report of {{.RoleName}}",
	})
	u.static("bi", data{"credential_type": "oauth_secret", "application_id": u.apps["bi"], "rotation_period": "168h", "rotation_grace_period": "24h"})
	u.static("manual", data{"credential_type": "pat", "lifetime": "48h"})
	u.statics = []string{"dash", "report", "bi", "manual"}
}

func (u *upgraded) holds(secret *api.Secret, name string, alive func() bool) {
	u.t.Helper()
	require.NotEmpty(u.t, secret.LeaseID, name)
	require.True(u.t, alive(), name)
	u.leases = append(u.leases, &heldLease{Secret: secret, name: name, alive: alive})
}

// static makes a static role and replaces its first credential.
func (u *upgraded) static(role string, body data) {
	u.t.Helper()
	u.write("static-roles/"+role, body)
	u.retired[role] = u.creds(role)
	u.write("rotate-role/"+role, nil)
}

// finish does what Vault's tick would take care of before long: the upgrade comes first.
func (u *upgraded) finish() {
	u.t.Helper()
	u.write("config/rotate-root", nil)
	before := u.tokenIDs()
	u.workspace.Inject(simulator.Fault{Method: "POST", Path: "/api/2.0/token/create", Times: 1, AfterEffect: true, Reset: true})
	_, err := u.tryMint("pat", nil)
	requireRefused(u.t, err, 502)
	left := slices.DeleteFunc(u.tokenIDs(), func(id string) bool { return slices.Contains(before, id) })
	require.Len(u.t, left, 1)
	u.orphan = left[0]
	u.static("soon", data{"credential_type": "pat", "rotation_period": "150s", "rotation_grace_period": "120s", "deliver_scope": u.scope, "deliver_key": "soon"})

	for _, path := range u.localPaths() {
		u.answers[path] = u.read(path)
	}
	require.Equal(u.t, releasedVersion, u.answers["status"]["plugin_version"])
	require.Len(u.t, u.answers["config"]["retired_ids"], 1, "a credential of the engine's own is in its grace")
	for role, old := range u.retired {
		require.Equal(u.t, []any{old.id}, u.answers["static-roles/"+role]["retired_ids"], "so is one of %s", role)
	}
	u.tokens = u.details("tokens")
}

// localPaths are all paths that are read from the storage.
func (u *upgraded) localPaths() []string {
	u.t.Helper()
	paths := []string{"config", "status", "tidy/status"}
	for _, role := range u.keys("roles") {
		paths = append(paths, "roles/"+role)
	}
	for _, role := range u.keys("static-roles") {
		paths = append(paths, "static-roles/"+role, "static-creds/"+role)
	}
	return paths
}

// answersAsBefore requires that every read answers what it answered before the upgrade, without a call. It may say more by now.
func (u *upgraded) answersAsBefore() {
	u.t.Helper()
	paths := u.localPaths()
	require.ElementsMatch(u.t, slices.Collect(maps.Keys(u.answers)), paths)
	for _, path := range paths {
		have := u.read(path)
		if path == "status" {
			require.NotEqual(u.t, releasedVersion, have["plugin_version"], "it is another plugin now")
		}
		for field, want := range u.answers[path] {
			switch {
			case path == "status" && slices.Contains([]string{"plugin_version", "calls", "last_success_time"}, field):
				continue // of the process
			case strings.HasPrefix(path, "static-creds/") && field == "ttl":
				continue // it has gone down; next_vault_rotation of the role is compared
			case have[field] == nil && (want == "" || want == json.Number("0")):
				continue // what has no value is null or left out by now
			case field == "next_automatic" && want == "":
				continue // a tick may have decided it meanwhile
			case strings.HasSuffix(path, "status") && want == "" && have[field] == nil:
				continue // there was no time, for which the release had two ways to say it
			}
			require.Equal(u.t, want, have[field], "%s of %s", field, path)
		}
	}
}

// standing requires that all that was promised before the upgrade works.
func (u *upgraded) standing() {
	u.t.Helper()
	for _, lease := range u.leases {
		require.True(u.t, lease.alive(), lease.name)
	}
	for role, old := range u.retired {
		require.True(u.t, u.usable(old), "what %s had before is in its grace", role)
		require.True(u.t, u.usable(u.creds(role)), role)
	}
	for _, role := range []string{"dash", "soon"} {
		value, _ := u.value(u.scope, role)
		require.Equal(u.t, u.creds(role).secret, value, "the copy of %s", role)
	}
}

// renews requires that all leases go on that did so before. Databricks is told nothing.
func (u *upgraded) renews() {
	u.t.Helper()
	for _, lease := range u.leases {
		_, isAccessToken := lease.Data["access_token"]
		require.Equal(u.t, !isAccessToken, lease.Renewable, lease.name)
		renewed, err := u.client.Sys().Renew(lease.LeaseID, 5400)
		if isAccessToken {
			requireRefused(u.t, err, 400, "not renewable")
			continue
		}
		require.NoError(u.t, err, lease.name)
		require.Greater(u.t, renewed.LeaseDuration, lease.LeaseDuration, "%s is prolonged", lease.name)
		require.LessOrEqual(u.t, renewed.LeaseDuration, 5400, lease.name)
	}
}

// listsTokens requires that the mount knows the tokens that it made before from the others of its identity.
func (u *upgraded) listsTokens() {
	u.t.Helper()
	for _, token := range u.tokens {
		if info := token.(data); info["expiry_time"] == "" {
			info["expiry_time"] = nil // never, which is null by now
		}
	}
	require.Equal(u.t, u.tokens, u.details("tokens"))
	for _, lease := range u.leases {
		if lease.name == "pat" {
			token := u.read("tokens/" + tokenIDOf(lease.Secret))
			require.Equal(u.t, true, token["issued_by_this_mount"])
			require.Equal(u.t, lease.Data["comment"], token["comment"])
		}
	}
}

// rotates replaces the credentials of static roles and of the engine, and keeps the ones before for their grace.
func (u *upgraded) rotates() {
	u.t.Helper()
	for _, role := range u.statics {
		before := u.creds(role)
		answer := u.write("rotate-role/"+role, nil)
		require.ElementsMatch(u.t, []any{u.retired[role].id, before.id}, answer.Data["retired_ids"], role)
		now := u.creds(role)
		require.NotEqual(u.t, before.id, now.id, role)
		for _, c := range []*sharedCredential{u.retired[role], before, now} {
			require.True(u.t, u.usable(c), role)
		}
	}
	value, _ := u.value(u.scope, "dash")
	require.Equal(u.t, u.creds("dash").secret, value)

	before := u.read("config")
	answer := u.write("config/rotate-root", nil)
	require.NotEqual(u.t, before["credential_id"], answer.Data["credential_id"])
	require.Contains(u.t, answer.Data["retired_ids"], before["credential_id"])
	require.Equal(u.t, before["hand_made_credentials"], answer.Data["hand_made_credentials"])
}

// mints makes new leases from the roles of before, and ends them.
func (u *upgraded) mints() {
	u.t.Helper()
	for _, role := range u.keys("roles") {
		secret := u.mint(role)
		c := &sharedCredential{answer: secret.Data, secret: secretPartOf(secret)}
		require.True(u.t, u.usable(c), role)
		u.revoke(secret)
		require.Equal(u.t, secret.Data["access_token"] != nil, u.usable(c), "revoking %s ends everything but an access token", role)
	}
}

// revokes ends the leases of before.
func (u *upgraded) revokes() {
	u.t.Helper()
	for _, lease := range u.leases {
		u.revoke(lease.Secret)
		require.Equal(u.t, lease.Data["access_token"] != nil, lease.alive(), "revoking %s ends everything but an access token", lease.name)
		_, err := u.client.Sys().Lookup(lease.LeaseID)
		requireRefused(u.t, err, 400, "invalid lease")
	}
	require.Equal(u.t, "READ", u.permission(u.scope, "readers"), "the permission of before the lease is back")
}

// awaitsTicks waits until Vault's ticks have done what was begun before the upgrade.
func (u *upgraded) awaitsTicks() {
	u.t.Helper()
	first, second := u.retired["soon"], u.answers["static-creds/soon"]["token_id"]
	require.Eventually(u.t, func() bool { return !u.usable(first) }, orphanPatience, 200*time.Millisecond, "its grace is over")
	require.Eventually(u.t, func() bool { return u.creds("soon").id != second }, orphanPatience, 200*time.Millisecond, "it is rotated when it is due")
	require.Eventually(u.t, func() bool { return !slices.Contains(u.tokenIDs(), u.orphan) }, orphanPatience, 200*time.Millisecond,
		"what the write-ahead log of before says is rolled back")
	now := u.creds("soon")
	require.True(u.t, u.usable(now))
	require.Eventually(u.t, func() bool {
		value, _ := u.value(u.scope, "soon")
		return value == now.secret
	}, patience, 100*time.Millisecond)
}

// cleansUp deletes all that is left.
func (u *upgraded) cleansUp() {
	u.t.Helper()
	for _, role := range u.keys("static-roles") {
		u.delete("static-roles/" + role)
	}
	for _, role := range u.keys("roles") {
		u.delete("roles/" + role)
	}
	u.deleteConfigByForce()
	u.requireAbsent("config")
}

// otherVersion is the version in the catalogue that is not the given one.
func (s *vaultServer) otherVersion(t *testing.T, plugin, not string) string {
	t.Helper()
	client, err := s.client(s.rootToken)
	require.NoError(t, err)
	list, err := client.Sys().ListPlugins(&api.ListPluginsInput{Type: api.PluginTypeSecrets})
	require.NoError(t, err)
	versions := []string{}
	for _, p := range list.Details {
		if p.Name == plugin && p.Version != not {
			versions = append(versions, p.Version)
		}
	}
	require.Len(t, versions, 1)
	return versions[0]
}

// TestUpgradeInPlace replaces the binary of v0.1.0 by the present one, as Vault says that a plugin is upgraded: the new file takes the
// place of the old one, the catalogue gets its checksum and version, the mounts are tuned to that version, and the plugin is reloaded.
// Config, roles, static roles and leases of every kind must go on as if nothing had happened, and when all is revoked and deleted,
// nothing of either version may be left.
func TestUpgradeInPlace(t *testing.T) {
	t.Parallel()
	plugin := pluginName + "-upgraded"
	file := filepath.Join(server.pluginDir, plugin)
	buildRelease(t, file)
	s := newOwnServer(t)
	require.NoError(t, s.register(plugin, plugin))

	// Two mounts of one workspace: which credential types there are depends on how the engine authenticates.
	first := newMountOn(t, s.vaultServer, plugin)
	second := *first
	second.path += "-m2m"
	require.NoError(t, second.client.Sys().Mount(second.path, &api.MountInput{Type: plugin}))
	t.Cleanup(func() { require.NoError(t, second.client.Sys().Unmount(second.path)) })
	workspace := first.workspace
	workspace.AddGroup("readers")
	engine := workspace.AddServicePrincipal("engine", true)
	_, secret := workspace.AddOAuthSecret(engine, 0)
	s.secret(secret, "a configured client secret")
	byToken := newUpgraded(first, first.admin, "etl")
	bySecret := newUpgraded(&second, engine, "etl-m2m")
	both := func(step func(*upgraded)) {
		t.Helper()
		step(byToken)
		step(bySecret)
	}
	both((*upgraded).prepare)
	byHand := workspace.Snapshot()
	byToken.fill(data{"token": first.token})
	bySecret.fill(data{"client_id": engine.ApplicationID, "client_secret": secret})
	both((*upgraded).finish)
	before := workspace.Snapshot()
	workspace.ResetCalls()

	require.NoError(t, copyFile(filepath.Join(server.pluginDir, pluginName), file+".new"))
	require.NoError(t, os.Rename(file+".new", file)) // What runs can't be written to.
	require.NoError(t, s.register(plugin, plugin))
	version := s.otherVersion(t, plugin, releasedVersion)
	both(func(u *upgraded) {
		// Vault has noted the version that was there when the mount was made, and starts no other.
		require.NoError(t, u.client.Sys().TuneMountAllowNil(u.path, api.TuneMountConfigInput{PluginVersion: &version}))
	})
	_, err := first.client.Sys().ReloadPlugin(&api.ReloadPluginInput{Plugin: plugin})
	require.NoError(t, err)

	both((*upgraded).answersAsBefore)
	both((*upgraded).renews)
	require.Empty(t, workspace.Calls(), "an upgrade asks nothing of Databricks, and neither do reads and renewals")
	require.Equal(t, before, workspace.Snapshot(), "so nothing was created or deleted")
	both((*upgraded).standing)
	both((*upgraded).listsTokens)

	both((*upgraded).rotates)
	both((*upgraded).mints)
	both((*upgraded).revokes)
	both((*upgraded).awaitsTicks)
	both((*upgraded).cleansUp)
	require.Equal(t, byHand, workspace.Snapshot(), "what was made by hand is there, and nothing else")
}
