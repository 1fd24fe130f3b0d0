// SPDX-License-Identifier: MPL-2.0

package databricks

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-databricks/internal/simulator"
)

// TestStorageOfV010 starts mounts on storage that v0.1.0 wrote: an upgrade in place must find everything, lose nothing at the
// workspace, and go on with what was begun. What a row of the files means, testdata/v0.1.0/README.md says.
func TestStorageOfV010(t *testing.T) {
	skipLong(t)
	t.Parallel()
	files, err := filepath.Glob("testdata/v0.1.0/*.json")
	require.NoError(t, err)
	require.Len(t, files, 5)
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".json"), func(t *testing.T) {
			t.Parallel()
			t.Run("reads back and changes nothing by starting", func(t *testing.T) {
				t.Parallel()
				openWalk(t, file).readsBack(t)
			})
			s := openWalk(t, file).s
			if len(s.Leases) == 0 {
				return // no more than a config
			}
			for behaviour, check := range map[string]func(*storedWalk, *testing.T){
				"mints from every role":                 (*storedWalk).mints,
				"renews leases without a call":          (*storedWalk).renews,
				"revokes leases and takes back no more": (*storedWalk).revokes,
				"rolls all open log entries back":       (*storedWalk).rollsBack,
				"rotates when asked":                    (*storedWalk).rotates,
				"rotates when due and not before":       (*storedWalk).rotatesWhenDue,
				"removes all that a static role made":   (*storedWalk).removesStatic,
				"tidies":                                (*storedWalk).tidies,
			} {
				t.Run(behaviour, func(t *testing.T) {
					t.Parallel()
					check(openWalk(t, file), t)
				})
			}
			for i, entry := range s.Open {
				t.Run("rolls one open log entry back: "+entry.Name, func(t *testing.T) {
					t.Parallel()
					openWalk(t, file).rollsOneBack(t, i)
				})
			}
			t.Run("leaves leases of another workspace alone", func(t *testing.T) {
				t.Parallel()
				openWalk(t, file).elsewhere(t)
			})
			if s.Workspace.AccountID != "" {
				return
			}
			// What was made knows its workspace by the id, too.
			for behaviour, check := range map[string]func(*storedWalk, *testing.T){
				"revokes leases at a new address of the workspace":              (*storedWalk).revokes,
				"rolls open log entries back at a new address of the workspace": (*storedWalk).rollsBack,
				"rotates at a new address of the workspace":                     (*storedWalk).rotates,
			} {
				t.Run(behaviour, func(t *testing.T) {
					t.Parallel()
					check(openWalk(t, file, atNewAddress(t)), t)
				})
			}
			if s.Answers["config"]["auth_type"] == "pat" {
				t.Run("needs no admin for what is its own", func(t *testing.T) {
					t.Parallel()
					openWalk(t, file, atNewAddress(t), withoutAdmins).ownOnly(t)
				})
			}
		})
	}
}

// atNewAddress lets the workspace have another address than it had, which the config knows and what was made before doesn't.
func atNewAddress(t *testing.T) func(*storedMount, string) {
	return func(s *storedMount, address string) {
		var config map[string]json.RawMessage
		require.NoError(t, json.Unmarshal(s.Storage["config/connection"], &config))
		var err error
		config["host"], err = json.Marshal(address)
		require.NoError(t, err)
		s.Storage["config/connection"], err = json.Marshal(config)
		require.NoError(t, err)
		s.Answers["config"]["host"], s.Answers["status"]["host"] = address, address
	}
}

// withoutAdmins takes everybody's rights as a workspace admin away.
func withoutAdmins(s *storedMount, _ string) {
	for i, group := range s.Workspace.Groups {
		if group.Name == "admins" {
			s.Workspace.Groups[i].Members = nil
		}
	}
}

// storedWalk is a mount that was started on a file.
type storedWalk struct {
	*mount
	s     *storedMount
	clock *clock
	kept  []string // what must be there whatever happens, since the engine has not made it
}

func openWalk(t *testing.T, file string, changes ...func(*storedMount, string)) *storedWalk {
	t.Helper()
	s, m, c := openStored(t, file, changes...)
	w := &storedWalk{mount: m, s: s, clock: c}
	ours := make(map[string]bool)
	for _, object := range s.left {
		ours[object] = true
	}
	for _, e := range s.effects() {
		for _, object := range e.Removes {
			ours[object] = true
		}
	}
	for _, answer := range s.Answers {
		ids, _ := answer["retired_ids"].([]any)
		if id, _ := answer["credential_id"].(string); id != "" {
			ids = append(ids, id)
		}
		for _, id := range ids {
			ours[fmt.Sprint("token ", id)], ours[fmt.Sprint("oauth_secret ", id)] = true, true
		}
	}
	for _, object := range objectsOf(m.workspace) {
		kind, _, _ := strings.Cut(object, " ")
		if copied := kind == "secret" && !strings.HasPrefix(object, "secret etl/theirs ") && !strings.HasPrefix(object, "secret etl/untouched "); !ours[object] && !copied {
			w.kept = append(w.kept, object)
		}
	}
	m.t.Cleanup(func() {
		now := objectsOf(m.workspace)
		for _, object := range w.kept {
			require.Contains(t, now, object, "it is not the engine's")
		}
	})
	m.workspace.ResetCalls()
	return w
}

// effects are those of all leases and open entries.
func (s *storedMount) effects() []storedEffect {
	var all []storedEffect
	for _, l := range s.Leases {
		all = append(all, l.Revoked)
	}
	for _, entry := range s.Open {
		all = append(all, entry.RolledBack)
	}
	return all
}

// entries is the storage, as texts.
func (w *storedWalk) entries() map[string]string {
	w.t.Helper()
	all := make(map[string]string)
	for _, key := range storedKeys(w.t, w.storage) {
		entry, err := w.storage.Get(w.t.Context(), key)
		require.NoError(w.t, err)
		all[key] = string(entry.Value)
	}
	return all
}

// names are the names below a prefix of the storage as it was.
func (s *storedMount) names(prefix string) []string {
	var names []string
	for key := range s.Storage {
		if name, found := strings.CutPrefix(key, prefix); found {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// answer is the data of a read in the form in which Vault would answer it.
func (w *storedWalk) answer(path string) map[string]any {
	w.t.Helper()
	resp := w.read(path)
	require.NotNil(w.t, resp, path)
	raw, err := json.Marshal(resp.Data)
	require.NoError(w.t, err)
	var data map[string]any
	require.NoError(w.t, json.Unmarshal(raw, &data))
	return data
}

// readsAsWas requires the answer of before. It may have more fields by now, and what had no value may be null or left out.
func (w *storedWalk) readsAsWas(path string) {
	w.t.Helper()
	have := w.answer(path)
	for field, want := range w.s.Answers[path] {
		if path, ok := strings.CutPrefix(path, "static-creds/"); ok && field == "ttl" {
			require.InDelta(w.t, want, have[field], 5, path)
			continue
		}
		if have[field] == nil && (want == "" || want == 0.0) {
			continue
		}
		require.Equal(w.t, want, have[field], "%s of %s", field, path)
	}
}

// requireEffect requires what has come and gone since before, and nothing else.
func (w *storedWalk) requireEffect(want storedEffect, before []string, what ...any) {
	w.t.Helper()
	have := effect(before, objectsOf(w.workspace))
	require.ElementsMatch(w.t, want.Removes, have.Removes, what...)
	require.ElementsMatch(w.t, want.Puts, have.Puts, what...)
}

func (w *storedWalk) readsBack(t *testing.T) {
	stored, before := w.entries(), objectsOf(w.workspace)
	require.Len(t, stored, len(w.s.Storage))
	require.Len(t, w.s.Answers, len(w.s.names("role/"))+len(w.s.names("static/"))+len(w.standing())+3)
	for path := range w.s.Answers {
		w.readsAsWas(path)
	}
	for prefix, path := range map[string]string{"role/": "roles", "static/": "static-roles"} {
		names, _ := w.list(path).([]string)
		require.Equal(t, w.s.names(prefix), names)
	}
	require.Empty(t, w.workspace.Calls(), "nothing is asked of Databricks")
	require.Equal(t, stored, w.entries())
	w.requireEffect(storedEffect{}, before)

	// The secret parts that are stored are the ones that work.
	for _, name := range w.s.names("static/") {
		if w.s.Answers["static-creds/"+name] != nil {
			w.requireWorks(name)
		}
	}
	if w.s.Answers["static-roles/leaving"] != nil {
		resp, err := w.do(logical.ReadOperation, "static-creds/leaving", nil)
		w.refused(resp, err, "is being deleted")
	}
}

// requireWorks requires that Databricks takes what static-creds answers, and that it is delivered where the role says.
func (w *storedWalk) requireWorks(name string) {
	w.t.Helper()
	creds, role := w.answer("static-creds/"+name), w.answer("static-roles/"+name)
	value, isToken := creds["token_value"].(string)
	if isToken {
		require.True(w.t, w.workspace.Introspect(value).Live, name)
	} else {
		value = creds["client_secret"].(string)
		login := "/oidc/v1/token"
		if account := w.workspace.AccountID(); account != "" {
			login = "/oidc/accounts/" + account + "/v1/token"
		}
		require.NotEmpty(w.t, w.login(login, creds["client_id"].(string), value), name)
	}
	if role["delivered"] == true {
		delivered, _ := w.has(role["deliver_key"].(string))
		require.Equal(w.t, value, delivered)
	}
}

func (w *storedWalk) mints(t *testing.T) {
	for _, name := range w.s.names("role/") {
		before := objectsOf(w.workspace)
		creds := w.mint(name)
		w.end(creds.Secret)
		w.requireEffect(storedEffect{}, before, name)
	}
}

// secret is the lease as Vault would keep it, if it had been made by much later.
func (l *storedLease) secret(issued time.Time, later time.Duration) *logical.Secret {
	return &logical.Secret{
		LeaseOptions: logical.LeaseOptions{
			TTL: time.Duration(l.TTL) * time.Second, MaxTTL: time.Duration(l.MaxTTL) * time.Second, Renewable: l.Renewable, IssueTime: issued.Add(later),
		},
		InternalData: postponed(l.Internal, later),
	}
}

// postponed has every time of the data moved.
func postponed(data map[string]any, by time.Duration) map[string]any {
	moved := maps.Clone(data)
	for field, value := range data {
		switch value := value.(type) {
		case map[string]any:
			moved[field] = postponed(value, by)
		case string:
			if at, err := time.Parse(time.RFC3339, value); err == nil && !at.IsZero() {
				moved[field] = at.Add(by).Format(time.RFC3339Nano)
			}
		}
	}
	return moved
}

// renews moves the leases to the present, since Vault decides renewals by the machine's clock.
func (w *storedWalk) renews(t *testing.T) {
	later := time.Since(w.s.Made)
	w.clock.advance(later)
	kinds := make(map[any]bool)
	for _, l := range w.s.Leases {
		secret := l.secret(w.s.Made, later)
		secret.Increment = 40 * time.Minute
		resp, err := w.leaseRequest(logical.RenewOperation, secret)
		w.requireOK(resp, err)
		kinds[l.Internal["secret_type"]], kinds[l.Internal["credential_type"]] = true, true
		if !l.Renewable {
			// Vault refuses that. The engine must not promise more than there is.
			require.Equal(t, "oauth_token", l.Internal["credential_type"])
			require.LessOrEqual(t, resp.Secret.MaxTTL, time.Hour+time.Second)
			continue
		}
		require.InDelta(t, 40*time.Minute, resp.Secret.TTL, float64(10*time.Second), l.Name)
		require.Greater(t, resp.Secret.MaxTTL, 59*time.Minute, l.Name)

		// Unless a client asks for something else, as long as the first time.
		resp, err = w.leaseRequest(logical.RenewOperation, l.secret(w.s.Made, later))
		w.requireOK(resp, err)
		require.InDelta(t, seconds(l.TTL), resp.Secret.TTL, float64(time.Second), l.Name)

		// No promise goes past the end of a credential, or the maximum of the mount.
		secret = l.secret(w.s.Made, later)
		secret.Increment = 100 * time.Hour
		resp, err = w.leaseRequest(logical.RenewOperation, secret)
		w.requireOK(resp, err)
		require.InDelta(t, seconds(l.MaxTTL), resp.Secret.TTL, float64(70*time.Second), l.Name)
	}
	require.Empty(t, w.workspace.Calls())
	if w.s.Answers["config"]["auth_type"] == "pat" {
		for _, kind := range []string{"pat", "obo_token", "oauth_secret", "oauth_token", "service_principal", "databricks_credential", "databricks_secret", "databricks_acl"} {
			require.True(t, kinds[kind], "the file has a lease of %s", kind)
		}
	}
}

func (w *storedWalk) revokes(t *testing.T) {
	require.NotEmpty(t, w.s.Leases)
	for _, l := range w.s.Leases {
		before := objectsOf(w.workspace)
		for range 2 {
			w.end(l.secret(w.s.Made, 0))
			w.requireEffect(l.Revoked, before, l.Name)
		}
	}

	// What is left of the log is rolled back as if there had never been a lease.
	before := objectsOf(w.workspace)
	w.tick()
	w.requireEffect(w.allRolledBack(), before)
	require.Empty(t, w.walEntries())
}

// allRolledBack is what all the open entries change.
func (w *storedWalk) allRolledBack() storedEffect {
	all := storedEffect{}
	for _, entry := range w.s.Open {
		all.Removes, all.Puts = append(all.Removes, entry.RolledBack.Removes...), append(all.Puts, entry.RolledBack.Puts...)
	}
	return all
}

func (w *storedWalk) rollsBack(t *testing.T) {
	stored, before := w.entries(), objectsOf(w.workspace)
	require.Len(t, w.walEntries(), len(w.s.Open))
	for range 2 {
		w.tick()
		require.Empty(t, w.walEntries())
		w.requireEffect(w.allRolledBack(), before)
	}
	now := w.entries()
	for key, value := range stored {
		if strings.HasPrefix(key, "config/") || strings.HasPrefix(key, "role/") || strings.HasPrefix(key, "static/") {
			require.Equal(t, value, now[key], "what was saved stays, and nothing is due yet")
		}
	}
	for path, answer := range w.s.Answers {
		if answer["next_automatic"] == "" {
			delete(answer, "next_automatic") // Vault's tick has just decided it
		}
		w.readsAsWas(path)
	}
	// Leases go on, and end as if there had been no log.
	for _, l := range w.s.Leases {
		before := objectsOf(w.workspace)
		w.end(l.secret(w.s.Made, 0))
		w.requireEffect(l.Revoked, before, l.Name)
	}
}

func (w *storedWalk) rollsOneBack(t *testing.T, i int) {
	for j, other := range w.s.Open {
		if j != i {
			require.NoError(t, w.storage.Delete(t.Context(), other.Key))
		}
	}
	require.Len(t, w.walEntries(), 1)
	before := objectsOf(w.workspace)
	w.tick()
	w.requireEffect(w.s.Open[i].RolledBack, before)
	require.Empty(t, w.walEntries())
}

// standing are the static roles that are not being deleted.
func (w *storedWalk) standing() []string {
	return slices.DeleteFunc(w.s.names("static/"), func(name string) bool { return name == "leaving" })
}

// ids are the ids of the credentials that a rotation has replaced and that are still alive, and of the present one.
func (w *storedWalk) ids(path string) (current string, retired []string) {
	w.t.Helper()
	answer := w.answer(path)
	for _, id := range answer["retired_ids"].([]any) {
		retired = append(retired, id.(string))
	}
	return answer["credential_id"].(string), retired
}

// rotationsOf are the paths that show a credential which is rotated, with the path that rotates it.
func (w *storedWalk) rotationsOf() map[string]string {
	all := map[string]string{"config": "config/rotate-root"}
	for _, name := range w.standing() {
		all["static-roles/"+name] = "rotate-role/" + name
	}
	return all
}

// live tells whether there is such a credential.
func (w *storedWalk) live(id string) bool {
	now := objectsOf(w.workspace)
	return slices.Contains(now, "token "+id) || slices.Contains(now, "oauth_secret "+id)
}

// scopesFor are the API scopes of a live credential.
func (w *storedWalk) scopesFor(id string) []string {
	w.t.Helper()
	shot := w.workspace.Snapshot()
	for _, token := range shot.Tokens {
		if token.ID == id {
			return token.Scopes
		}
	}
	for _, secret := range shot.OAuthSecrets {
		if secret.ID == id {
			return secret.Scopes
		}
	}
	require.Fail(w.t, "there is no such credential", id)
	return nil
}

// promised tells until when credentials that were replaced go on working.
func (s *storedMount) promised(t *testing.T) map[string]time.Time {
	t.Helper()
	type replaced []struct {
		ID    string    `json:"id"`
		Until time.Time `json:"until"`
	}
	all := make(map[string]time.Time)
	for key, value := range s.Storage {
		var entry struct {
			Rotation struct {
				Retired replaced `json:"retired"`
			} `json:"rotation"`
			State struct {
				Retired replaced `json:"retired"`
			} `json:"state"`
		}
		if strings.HasPrefix(key, "config/") || strings.HasPrefix(key, "static/") {
			require.NoError(t, json.Unmarshal(value, &entry))
		}
		for _, old := range slices.Concat(entry.Rotation.Retired, entry.State.Retired) {
			require.True(t, old.Until.After(s.Made), key)
			all[old.ID] = old.Until
		}
	}
	return all
}

// rotates rotates everything by hand, and lets the graces end.
func (w *storedWalk) rotates(t *testing.T) {
	w.tick()
	graces := make(map[string][]string)
	for path, rotate := range w.rotationsOf() {
		old, retired := w.ids(path)
		handMade := w.s.Answers[path]["hand_made_credentials"]
		w.write(rotate, nil)
		now, replaced := w.ids(path)
		require.NotEqual(t, old, now)
		if old == "" {
			require.Len(t, w.answer(path)["hand_made_credentials"], 1, "it was made by hand, and stays")
		} else {
			require.Equal(t, handMade, w.answer(path)["hand_made_credentials"])
			require.Contains(t, replaced, old)
			require.Equal(t, w.scopesFor(old), w.scopesFor(now), "the new one may do as much as the old one")
		}
		require.Subset(t, replaced, retired, "what was promised before stays: %s", path)
		for _, id := range append([]string{now}, replaced...) {
			require.True(t, w.live(id), path)
		}
		graces[path] = replaced
	}
	for _, name := range w.standing() {
		w.requireWorks(name)
	}

	// The engine goes on by the new one, when those before it are gone.
	w.clock.advance(6 * time.Minute)
	w.tick()
	_, left := w.ids("config")
	require.Empty(t, left)
	for _, id := range graces["config"] {
		require.False(t, w.live(id))
	}
	w.restartAt(w.clock)
	w.mint(w.s.names("role/")[0])
	for range 5 {
		w.clock.advance(6 * time.Hour)
		w.tick()
	}
	for path, replaced := range graces {
		for _, id := range replaced {
			require.False(t, w.live(id), "%s: its grace is over", path)
		}
	}
	require.Empty(t, w.walEntries())
}

// rotatesWhenDue lets eight days go by.
func (w *storedWalk) rotatesWhenDue(t *testing.T) {
	type plan struct {
		id       string
		retired  []string
		due      time.Time
		replaced bool
	}
	promised := w.s.promised(t)
	require.NotEmpty(t, promised)
	keepsPromises := func() {
		t.Helper()
		for id, until := range promised {
			require.True(t, w.live(id) || !w.clock.now().Before(until), "%s, until %s", id, until)
		}
	}
	plans := make(map[string]*plan)
	for path := range w.rotationsOf() {
		p := new(plan)
		p.id, p.retired = w.ids(path)
		if next := w.s.Answers[path]["next_vault_rotation"]; next != nil {
			p.due = w.moment(next)
		}
		if retry := w.s.Answers[path]["next_rotation_attempt"]; retry != nil {
			p.due = w.moment(retry) // it has failed
		}
		plans[path] = p
	}

	// What had failed for the time being is tried again first.
	w.clock.advance(w.s.Made.Add(61*time.Second).Sub(w.clock.now()) + time.Second)
	w.tick()
	keepsPromises()
	if w.s.Answers["static-roles/leaving"] != nil {
		require.Nil(t, w.read("static-roles/leaving"))
		gone, _ := w.s.Answers["static-roles/leaving"]["credential_id"].(string)
		require.NotEmpty(t, gone)
		require.False(t, w.live(gone))
		for _, name := range []string{"late", "unsure"} {
			require.Equal(t, false, w.s.Answers["static-roles/"+name]["delivered"])
			late := w.answer("static-roles/" + name)
			require.Equal(t, true, late["delivered"])
			require.Empty(t, late["pending_error"])
		}
		failing := w.answer("static-roles/failing")
		require.EqualValues(t, 0, failing["rotation_failures"])
		require.Empty(t, failing["last_rotation_error"])
	}
	for _, name := range w.standing() {
		w.requireWorks(name)
	}

	const step = time.Hour
	for range 8 * 24 {
		keepsPromises()
		for path, p := range plans {
			now, _ := w.ids(path)
			switch at := w.clock.now(); {
			case p.replaced:
			case now != p.id:
				p.replaced = true
				require.False(t, p.due.IsZero(), "%s has no schedule", path)
				require.False(t, at.Before(p.due), "%s: rotated at %s", path, at)
				require.True(t, at.Before(p.due.Add(step+time.Minute)), "%s: rotated at %s", path, at)
			case !p.due.IsZero():
				require.True(t, at.Before(p.due.Add(step)), "%s: not rotated by %s", path, at)
			}
		}
		w.clock.advance(step)
		w.tick()
	}
	for path, p := range plans {
		require.Equal(t, !p.due.IsZero(), p.replaced, path)
		for _, id := range p.retired {
			require.False(t, w.live(id), "%s: its grace is over", path)
		}
		require.False(t, w.live(p.id), "%s: it was replaced, or has ended by itself", path)
	}
	require.Empty(t, w.walEntries())
	require.EqualValues(t, 0, w.answer("config")["rotation_failures"])
}

// removesStatic deletes the static roles: their credentials go, and their copies in secret scopes.
func (w *storedWalk) removesStatic(t *testing.T) {
	gone := w.allRolledBack()
	before := objectsOf(w.workspace)
	for _, name := range w.s.names("static/") {
		current, retired := w.ids("static-roles/" + name)
		for _, id := range append(retired, current) {
			for _, object := range []string{"token " + id, "oauth_secret " + id} {
				if slices.Contains(before, object) {
					gone.Removes = append(gone.Removes, object)
				}
			}
		}
		if key, _ := w.answer("static-roles/" + name)["deliver_key"].(string); key != "" {
			for _, object := range before {
				if strings.HasPrefix(object, "secret etl/"+key+" ") {
					gone.Removes = append(gone.Removes, object)
				}
			}
		}
		resp, err := w.do(logical.DeleteOperation, "static-roles/"+name, nil)
		w.requireOK(resp, err)
		require.Empty(t, resp.Warnings)
		require.Nil(t, w.read("static-roles/"+name))
	}
	w.tick()
	w.requireEffect(gone, before)
	require.Empty(t, w.walEntries())
}

// elsewhere connects the mount to another workspace: what was made at the first is not sought there.
func (w *storedWalk) elsewhere(t *testing.T) {
	other := simulator.New(simulator.WithWorkspaceID("4242"))
	t.Cleanup(other.Close)
	token, _ := other.AddToken(other.AddUser("engine@example.com", true), "", 0)
	resp, err := w.do(logical.DeleteOperation, "config", map[string]any{"force": true})
	w.requireOK(resp, err)
	before := objectsOf(w.workspace)
	w.write("config", map[string]any{"host": other.URL(), "token": token})
	other.ResetCalls()
	for _, l := range w.s.Leases {
		resp, err := w.revoke(l.secret(w.s.Made, 0))
		if l.Internal["credential_type"] == "oauth_token" {
			w.requireOK(resp, err) // nothing is to be done
			continue
		}
		w.refused(resp, err, "host: ", "the lease was made at "+w.workspace.URL(), "connect it to the first again")
	}
	resp, err = w.rollback()
	require.NoError(t, err)
	require.Error(t, resp.Error())
	require.Len(t, w.walEntries(), len(w.s.Open), "they wait for the first workspace")
	w.requireEffect(storedEffect{}, before)
	require.Contains(t, w.log.String(), w.workspace.URL())
	for _, call := range other.Calls() {
		require.Equal(t, http.MethodGet, call.Method)
	}
}

// ownOnly takes away the right to touch what is somebody else's: the engine knows what is its own.
func (w *storedWalk) ownOnly(t *testing.T) {
	for _, l := range w.s.Leases {
		if kind := l.Internal["credential_type"]; kind != "pat" && kind != nil {
			continue
		}
		before := objectsOf(w.workspace)
		w.end(l.secret(w.s.Made, 0))
		w.requireEffect(l.Revoked, before, l.Name)
	}
	_, err := w.rollback()
	require.NoError(t, err)
	now := objectsOf(w.workspace)
	for _, entry := range w.s.Open {
		var credential struct {
			Data struct {
				Credential struct {
					Type string `json:"credential_type"`
				} `json:"credential"`
			} `json:"data"`
		}
		require.NoError(t, json.Unmarshal(w.s.Storage[entry.Key], &credential))
		if kind := credential.Data.Credential.Type; kind != "pat" && kind != "" {
			continue
		}
		require.NotContains(t, w.walEntries(), strings.TrimPrefix(entry.Key, "wal/"), entry.Name)
		for _, object := range entry.RolledBack.Removes {
			require.NotContains(t, now, object, entry.Name)
		}
	}
	_, replacedRoot := w.ids("config")
	_, replaced := w.ids("static-roles/dash")
	require.NotEmpty(t, replacedRoot)
	require.NotEmpty(t, replaced)
	w.clock.advance(7 * time.Hour)
	_, err = w.rollback()
	require.NoError(t, err)
	for _, id := range append(replacedRoot, replaced...) {
		require.False(t, w.live(id))
	}
	require.Empty(t, w.answer("config")["pending_error"])
	require.Empty(t, w.answer("static-roles/dash")["pending_error"])
}

func (w *storedWalk) tidies(t *testing.T) {
	before := objectsOf(w.workspace)
	w.write("tidy", nil)
	status := w.awaitTidy()
	require.Equal(t, "finished", status["state"])
	require.Zero(t, status["found"], "all of it is within its time, or owned")
	w.requireEffect(storedEffect{}, before)
	w.tick()

	// A service principal doesn't end by itself. When its lease could not be revoked, it is found by its display name.
	var stray storedEffect
	for _, l := range w.s.Leases {
		if l.Internal["credential_type"] == "service_principal" {
			stray = l.Revoked
		}
	}
	w.clock.advance(3 * time.Hour)
	before = objectsOf(w.workspace)
	w.write("tidy", nil)
	status = w.awaitTidy()
	require.Equal(t, "finished", status["state"])
	require.Empty(t, status["last_error"])
	if stray.Removes != nil {
		require.EqualValues(t, 1, status["deleted"])
		stray.Removes = slices.DeleteFunc(slices.Clone(stray.Removes), func(object string) bool { return !slices.Contains(before, object) }) // its secret has ended
	}
	w.requireEffect(stray, before)
}
