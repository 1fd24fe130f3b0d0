// SPDX-License-Identifier: MPL-2.0

package databricks

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-databricks/internal/credential"
	"vault-plugin-secrets-databricks/internal/simulator"
)

// diary is storage that remembers what was ever put outside of the seal-wrapped prefixes, so that secrets which become known
// later can be looked for in it.
type diary struct {
	logical.Storage
	mu   sync.Mutex
	text strings.Builder
}

func (d *diary) Put(ctx context.Context, entry *logical.StorageEntry) error {
	if !strings.HasPrefix(entry.Key, configStoragePrefix) && !strings.HasPrefix(entry.Key, staticStoragePrefix) {
		d.mu.Lock()
		d.text.WriteString(entry.Key)
		d.text.Write(entry.Value)
		d.mu.Unlock()
	}
	return d.Storage.Put(ctx, entry)
}

func (d *diary) take() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	text := d.text.String()
	d.text.Reset()
	return text
}

// staticWalk is a mount with the static role "bi", and with credentials that its operator made by hand beside the role's.
type staticWalk struct {
	*mount
	clock    *clock
	diary    *diary
	role     map[string]any
	kind     string
	sp       simulator.Principal
	foreign  map[string]bool // ids of what the operator made
	last     mishap
	rotation time.Duration // from one to the next
	grace    time.Duration
}

func newStaticWalk(t *testing.T, kind string, role map[string]any) *staticWalk {
	m, c := newTimedMount(t)
	m.holdTidy()
	w := &staticWalk{mount: m, clock: c, diary: &diary{Storage: m.storage.Storage}, kind: kind, foreign: make(map[string]bool), rotation: 24 * time.Hour}
	m.storage.Storage = w.diary
	m.connect(map[string]any{"max_retries": 0})
	w.sp = m.workspace.AddServicePrincipal("bi", false)
	m.workspace.AddScope("etl", m.admin)
	m.workspace.PutSecret("etl", "theirs", []byte("the operator's"))
	w.role = map[string]any{"credential_type": kind}
	owner := m.admin
	if kind != credential.PAT {
		w.role["application_id"], owner = w.sp.ApplicationID, w.sp
	}
	if kind == credential.OAuthSecret {
		for _, life := range []time.Duration{0, 700 * 24 * time.Hour} {
			id, _ := m.workspace.AddOAuthSecret(w.sp, life)
			w.foreign[id] = true
		}
	} else {
		for _, comment := range []string{"", "Vault static role bi", "bi vault:00000000-0000-4000-8000-000000000000:" + strings.Repeat("0", 32) + ":1:kept", "bi vault:" + testMountID + ":kept"} {
			_, id := m.workspace.AddToken(owner, comment, 0)
			w.foreign[id] = true
		}
	}
	for field, value := range role {
		w.role[field] = value
	}
	return w
}

// live answers the ids of all live credentials but the operator's and the engine's own.
func (w *staticWalk) live() []string {
	w.t.Helper()
	foreign := 0
	var ours []string
	count := func(id string) {
		if w.foreign[id] {
			foreign++
		} else {
			ours = append(ours, id)
		}
	}
	if w.kind == credential.OAuthSecret {
		for _, secret := range w.workspace.OAuthSecrets(w.sp) {
			count(secret.ID)
		}
	} else {
		for _, token := range w.minted() {
			count(token.ID)
		}
	}
	require.Equal(w.t, len(w.foreign), foreign, "something of the operator's is gone")
	return ours
}

// value is the current secret part, as its readers get it.
func (w *staticWalk) value() string {
	w.t.Helper()
	return w.secretOf(w.read("static-creds/bi"))
}

func (w *staticWalk) secretOf(resp *logical.Response) string {
	w.t.Helper()
	require.NotNil(w.t, resp)
	field := keyTokenValue
	if w.kind == credential.OAuthSecret {
		field = keyClientSecret
	}
	value, _ := resp.Data[field].(string)
	require.NotEmpty(w.t, value)
	w.canaries.add(value)
	return value
}

// works tells whether Databricks takes the secret part.
func (w *staticWalk) works(value string) bool {
	w.t.Helper()
	if w.kind == credential.OAuthSecret {
		return w.login(grantPath, w.sp.ApplicationID, value) != ""
	}
	return w.workspace.Introspect(value).Live
}

// sound requires the invariant: the saved credential works and is delivered where the role says, nothing of ours is stray, and
// nothing is left to do. The role may have been replaced less than its grace period ago when overlap is set.
func (w *staticWalk) sound(overlap bool, what ...any) {
	w.t.Helper()
	require.Empty(w.t, w.walEntries(), what...)
	role := w.read("static-roles/bi").Data
	require.Empty(w.t, role["pending_error"], what...)
	require.Zero(w.t, role["rotation_failures"], what...)
	retired := role["retired_ids"].([]string)
	require.Equal(w.t, overlap, len(retired) == 1, fmt.Sprint(retired, what))
	require.LessOrEqual(w.t, len(retired), 1, what...)
	require.ElementsMatch(w.t, append([]string{role["credential_id"].(string)}, retired...), w.live(), what...)
	value := w.value()
	require.True(w.t, w.works(value), what...)
	keys := map[string]string{"theirs": "the operator's"}
	if key, _ := role["deliver_key"].(string); key != "" {
		keys[key] = value
		require.Equal(w.t, true, role["delivered"], what...)
	}
	w.keysAre(keys, what...)
	if role["next_vault_rotation"] != nil {
		next := w.moment(role["next_vault_rotation"])
		require.True(w.t, next.After(w.clock.now()), what...)
		require.False(w.t, next.After(w.clock.now().Add(w.rotation)), what...)
	}
	require.Empty(w.t, w.canaries.in(w.diary.take()), "a secret reached the storage")
}

func (w *staticWalk) keysAre(keys map[string]string, what ...any) {
	w.t.Helper()
	have := make(map[string]string)
	for key, secret := range w.scope("etl").Secrets {
		have[key] = string(secret.Value)
	}
	require.Equal(w.t, keys, have, what...)
}

// absent requires that nothing is left of the role.
func (w *staticWalk) absent(what ...any) {
	w.t.Helper()
	require.Empty(w.t, w.walEntries(), what...)
	require.Empty(w.t, w.live(), what...)
	w.keysAre(map[string]string{"theirs": "the operator's"}, what...)
	require.Nil(w.t, w.read("static-roles/bi"), what...)
}

// mishap is what goes wrong at one step: at a call to Databricks or at an operation of the storage, counted from 0.
type mishap struct {
	step  int
	call  bool
	what  string // the step in words
	fault string
}

func (h mishap) crash() bool { return strings.HasPrefix(h.fault, "crash") }

func (h mishap) String() string { return fmt.Sprintf("%s at %d %s", h.fault, h.step, h.what) }

// mishaps notes the steps that f takes, and answers every mishap that can befall it.
func (w *staticWalk) mishaps(f func()) []mishap {
	w.t.Helper()
	var rows []mishap
	n := 0
	w.storage.onEach(func(op, key string) error {
		if i := strings.IndexByte(key, '/'); i >= 0 && strings.HasPrefix(key, "wal/") {
			key = key[:i+1]
		}
		faults := []string{"storage fails", "storage fails for long", "crash before"}
		if op == "put" || op == "delete" {
			faults = append(faults, "storage fails after the effect", "crash after")
		}
		for _, fault := range faults {
			rows = append(rows, mishap{n, false, op + " " + key, fault})
		}
		n++
		return nil
	})
	w.workspace.ResetCalls()
	f()
	w.storage.onEach(nil)
	for i, call := range w.requests() {
		for _, fault := range []string{"500", "500 after the effect", "reply lost", "403", "429", "outage", "crash before", "crash after"} {
			rows = append(rows, mishap{i, true, call, fault})
		}
	}
	return rows
}

// befall prepares the mishap, and answers how to tell whether it has happened.
func (w *staticWalk) befall(h mishap) (happened func() bool) {
	w.last = h
	if h.call {
		return w.befallCall(h)
	}
	n, armed, hit := 0, false, false
	failed := errors.New("disk full")
	w.storage.onEach(func(string, string) error {
		n++
		switch {
		case n <= h.step, n > h.step+1 && h.fault != "storage fails for long":
			return nil
		}
		hit = true
		switch h.fault {
		case "crash before":
			w.die()
			return failed
		case "storage fails", "storage fails for long":
			return failed
		}
		armed = true
		return nil
	})
	w.storage.afterEach(func(string, string) error {
		if !armed {
			return nil
		}
		armed = false
		if h.fault == "crash after" {
			w.die()
		}
		return failed
	})
	return func() bool { return hit }
}

func (w *staticWalk) befallCall(h mishap) (happened func() bool) {
	f := simulator.Fault{Offset: h.step, Times: 1}
	switch h.fault {
	case "500":
		f.Status = 500
	case "500 after the effect":
		f.Status, f.AfterEffect = 500, true
	case "reply lost", "crash after":
		f.Reset, f.AfterEffect = true, true
	case "403":
		f.Status = 403
	case "429":
		f.Status = 429
	case "outage":
		f.Status, f.Times = 503, 0
	case "crash before":
		f.Reset, f.Times = true, 0
	}
	injected := w.workspace.Inject(f)
	happened = func() bool { return injected.Hits() > 0 }
	if h.crash() {
		// It sees what the first fault lets pass.
		w.workspace.Inject(simulator.Fault{Offset: h.step, Reset: true})
		w.storage.onEach(func(string, string) error {
			if happened() {
				return logical.ErrReadOnly
			}
			return nil
		})
	}
	return happened
}

// recover ends the mishap, and lets time go by until all that can be done has been done.
func (w *staticWalk) recover() {
	w.t.Helper()
	w.storage.onEach(nil)
	w.storage.afterEach(nil)
	w.workspace.ClearFaults()
	switch {
	case w.last.crash():
		w.revive(w.clock)
	case w.last.fault == "429":
		w.forgetThrottling()
	}
	w.last = mishap{}
	for range 10 {
		w.clock.advance(time.Minute)
		w.tick()
	}
	for range 16 {
		w.clock.advance(10 * time.Minute)
		w.tick()
	}
	w.workspace.ResetCalls()
}

// ticks lets Vault look five times, once a minute, whatever becomes of it.
func (w *staticWalk) ticks() {
	for range 5 {
		_, _ = w.rollback()
		w.clock.advance(time.Minute)
	}
}

// day lets the next rotation come, and the grace of what it replaces pass if it does so on the same day.
func (w *staticWalk) day(next time.Time) {
	w.clock.advance(next.Sub(w.clock.now()))
	w.ticks()
	if w.grace < w.rotation/2 {
		w.clock.advance(w.grace)
		w.ticks()
	}
}

// TestAYearOfStaticRotations rotates on every day of a year. Each day, something else goes wrong at one of the steps, in turn, and
// each evening the credential works, nothing of ours is stray, and nothing of the operator's is gone.
func TestAYearOfStaticRotations(t *testing.T) {
	skipLong(t)
	t.Parallel()
	delivered := func(more map[string]any) map[string]any {
		more["deliver_scope"], more["deliver_key"] = "etl", "bi"
		return more
	}
	for name, row := range map[string]struct {
		kind  string
		grace time.Duration
		role  map[string]any
	}{
		"pat, delivered":                       {credential.PAT, time.Hour, delivered(map[string]any{"rotation_period": "24h"})},
		"pat, no grace":                        {credential.PAT, 0, delivered(map[string]any{"rotation_period": "24h", "rotation_grace_period": 0})},
		"obo_token, by a cron schedule":        {credential.OBOToken, time.Hour, map[string]any{"rotation_schedule": "0 3 * * *"}},
		"oauth_secret, delivered, overlapping": {credential.OAuthSecret, 22 * time.Hour, delivered(map[string]any{"rotation_period": "24h", "rotation_grace_period": "22h"})},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newStaticWalk(t, row.kind, row.role)
			w.grace = row.grace
			w.write("static-roles/bi", w.role)
			overlap := row.grace > w.rotation/2
			next := func() time.Time { return w.moment(w.read("static-roles/bi").Data["next_vault_rotation"]) }
			w.day(next())
			w.recover()
			w.sound(overlap, "the first day")
			rows := w.mishaps(func() { w.day(next()) })
			w.recover()
			w.sound(overlap, "the second day")
			t.Logf("%d mishaps", len(rows))
			days := max(365, len(rows))
			for i := range days {
				h := rows[i%len(rows)]
				before := w.read("static-creds/bi").Data
				at := next()
				happened := w.befall(h)
				w.day(at)
				require.True(t, happened(), "day %d: %s didn't happen", i, h)
				w.recover()
				w.sound(overlap, fmt.Sprintf("day %d: %s", i, h))
				after := w.read("static-creds/bi").Data
				require.True(t, w.moment(after["last_vault_rotation"]).After(w.moment(before["last_vault_rotation"])), "day %d: %s", i, h)
				require.Equal(t, overlap, w.works(w.secretOf(&logical.Response{Data: before})), "day %d: %s", i, h)
			}
		})
	}
}

// TestStaticRequestsSurviveAnything lets every mishap befall every step of every request that changes a static role. Afterwards
// the role is either as it was or as it was asked to be, and a repetition finishes the request.
func TestStaticRequestsSurviveAnything(t *testing.T) {
	skipLong(t)
	t.Parallel()
	for _, kind := range credential.Names(credential.Static) {
		for _, deliver := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, delivered %t", kind, deliver), func(t *testing.T) {
				t.Parallel()
				role := map[string]any{"scopes": "sql"} // no schedule, which would come between
				if deliver {
					role["deliver_scope"], role["deliver_key"] = "etl", "bi"
				}
				w := newStaticWalk(t, kind, role)
				requests := map[string]func() (*logical.Response, error){
					"create": func() (*logical.Response, error) { return w.do(logical.UpdateOperation, "static-roles/bi", w.role) },
					"rotate": func() (*logical.Response, error) { return w.do(logical.UpdateOperation, "rotate-role/bi", nil) },
					"other scopes": func() (*logical.Response, error) {
						return w.do(logical.UpdateOperation, "static-roles/bi", map[string]any{"scopes": "jobs"})
					},
					"delete": func() (*logical.Response, error) { return w.do(logical.DeleteOperation, "static-roles/bi", nil) },
				}
				if deliver {
					requests["move"] = func() (*logical.Response, error) {
						return w.do(logical.UpdateOperation, "static-roles/bi", map[string]any{"deliver_key": "other"})
					}
				}
				for name, request := range requests {
					w.walkRequest(name, request)
				}
			})
		}
	}
}

// walkRequest plays every mishap on the request.
func (w *staticWalk) walkRequest(name string, request func() (*logical.Response, error)) {
	w.t.Helper()
	begin := func() {
		if name == "create" {
			resp, err := w.do(logical.DeleteOperation, "static-roles/bi", nil)
			w.requireOK(resp, err)
			w.absent(name)
		} else {
			w.write("static-roles/bi", w.role)
			w.recover()
			w.sound(false, name)
		}
	}
	begin()
	rows := w.mishaps(func() {
		resp, err := request()
		w.requireOK(resp, err)
	})
	for _, h := range rows {
		what := fmt.Sprintf("%s: %s", name, h)
		begin()
		happened := w.befall(h)
		resp, err := request()
		require.True(w.t, happened(), "%s didn't happen", what)
		if err == nil {
			err = resp.Error()
		}
		w.recover()
		there := w.read("static-roles/bi") != nil
		if there {
			w.sound(false, what)
		} else {
			w.absent(what)
		}
		if err != nil && strings.Contains(err.Error(), "was not created") {
			require.False(w.t, there, "%s: %s", what, err)
		}
		if err == nil || name != "create" {
			require.Equal(w.t, there, name != "delete" || err != nil && there, "%s: %v", what, err)
		}
		resp, err = request()
		w.requireOK(resp, err)
		w.recover()
		if name == "delete" {
			w.absent(what)
		} else {
			w.sound(false, what)
		}
	}
}
