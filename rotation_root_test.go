// SPDX-License-Identifier: MPL-2.0

package databricks

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
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

// rootKinds are the connections whose credential the engine can replace: by a token, by an OAuth secret, and by one on an account.
var rootKinds = []string{"pat", "oauth-m2m", "account"}

// rootMount is a mount with a credential that can be replaced, which an operator made by hand.
type rootMount struct {
	*mount
	clock  *clock
	kind   string
	engine simulator.Principal
	own    string   // id of the credential that the config was written with
	byHand []string // ids of all that operators made by hand, own among them
}

// newRootMount connects a mount, with more fields of the config on top. Its own credential never ends.
func newRootMount(t *testing.T, kind string, config map[string]any, opts ...simulator.Option) *rootMount {
	t.Helper()
	if kind == "account" {
		opts = append(opts, simulator.WithAccount(testAccountID))
	}
	m, c := newTimedMount(t, opts...)
	m.holdTidy()
	r := &rootMount{mount: m, clock: c, kind: kind}
	data := map[string]any{"host": m.workspace.URL(), "max_retries": 0}
	if kind == "pat" {
		r.engine = m.admin
		r.own = m.workspace.Tokens()[0].ID
		data["token"] = m.token
	} else {
		r.engine = m.workspace.AddServicePrincipal("engine", true)
		if kind == "account" {
			r.engine = m.workspace.AddAccountAdmin(r.engine)
			data["account_id"] = testAccountID
		}
		var secret string
		r.own, secret = m.workspace.AddOAuthSecret(r.engine, 0)
		data["client_id"], data["client_secret"] = r.engine.ApplicationID, m.unlogged(secret)
	}
	r.byHand = []string{r.own}
	for field, value := range config {
		data[field] = value
	}
	m.write("config", data)
	role := map[string]any{"credential_type": "oauth_token"}
	if kind == "pat" {
		role = map[string]any{"credential_type": "pat", "ttl": "1m", "max_ttl": "2m"}
	}
	m.write("roles/own", role)
	return r
}

// addByHand makes a further credential of the engine's identity as an operator does, and answers its value.
func (r *rootMount) addByHand(comment string) string {
	if r.kind == "pat" {
		value, id := r.workspace.AddToken(r.engine, comment, 0)
		r.byHand = append(r.byHand, id)
		return r.unlogged(value)
	}
	id, value := r.workspace.AddOAuthSecret(r.engine, 0)
	r.byHand = append(r.byHand, id)
	return r.unlogged(value)
}

// live are the ids of the credentials of the engine's identity.
func (r *rootMount) live() []string {
	ids := []string{}
	if r.kind != "pat" {
		for _, secret := range r.workspace.OAuthSecrets(r.engine) {
			ids = append(ids, secret.ID)
		}
		return ids
	}
	for _, token := range r.workspace.Tokens() {
		if token.Owner == r.engine.ID {
			ids = append(ids, token.ID)
		}
	}
	return ids
}

// made are those of them that the engine made.
func (r *rootMount) made() []string {
	return slices.DeleteFunc(r.live(), func(id string) bool { return slices.Contains(r.byHand, id) })
}

// stored is the config as it is stored.
func (r *rootMount) stored() *configEntry {
	r.t.Helper()
	config, err := readConfig(context.Background(), r.storage.Storage)
	require.NoError(r.t, err)
	require.NotNil(r.t, config)
	return config
}

// secretOf is the credential of a config.
func (r *rootMount) secretOf(config *configEntry) string {
	if r.kind == "pat" {
		return config.Token.Reveal()
	}
	return config.ClientSecret.Reveal()
}

// works tells whether Databricks accepts a credential of the engine's identity.
func (r *rootMount) works(secret string) bool {
	r.t.Helper()
	switch r.kind {
	case "pat":
		return r.whoami(secret) == http.StatusOK
	case "account":
		return r.login("/oidc/accounts/"+testAccountID+"/v1/token", r.engine.ApplicationID, secret) != ""
	default:
		return r.login(grantPath, r.engine.ApplicationID, secret) != ""
	}
}

// serves requires that the mount mints over its credential.
func (r *rootMount) serves() {
	r.t.Helper()
	creds := r.mint("own")
	if r.kind == "pat" {
		resp, err := r.revoke(creds.Secret)
		r.requireOK(resp, err)
	}
}

// createPathOf is where the kind's credentials are made.
func (r *rootMount) createPathOf() string {
	switch r.kind {
	case "pat":
		return createPath
	case "account":
		return "/api/2.0/accounts/" + testAccountID + "/servicePrincipals/*"
	default:
		return secretsPath + "*"
	}
}

// provePathOf is where a new credential is used for the first time.
func (r *rootMount) provePathOf() string {
	if r.kind == "account" {
		return "/api/2.0/accounts/" + testAccountID + "/scim/v2/ServicePrincipals"
	}
	return mePath
}

// rotate replaces the credential by hand.
func (r *rootMount) rotate() *logical.Response {
	r.t.Helper()
	resp := r.write("config/rotate-root", nil)
	r.unlogged(r.secretOf(r.stored()))
	return resp
}

func (r *rootMount) tryRotate() (*logical.Response, error) {
	return r.do(logical.UpdateOperation, "config/rotate-root", nil)
}

// pass lets the time pass, with Vault's ticks.
func (r *rootMount) pass(d, step time.Duration) {
	r.t.Helper()
	for ; d > 0; d -= step {
		r.clock.advance(min(step, d))
		r.tick()
	}
}

// sound requires that the saved credential works, that it is the only one that the engine made and left, that nothing is open, and
// that everything made by hand is still there.
func (r *rootMount) sound() {
	r.t.Helper()
	config := r.stored()
	require.True(r.t, r.works(r.secretOf(config)), "the saved credential works")
	r.serves()
	left := []string{}
	if config.Rotation.Credential.ID != "" {
		left = append(left, config.Rotation.Credential.ID)
	}
	require.Equal(r.t, left, r.made(), "what the engine made is what it saved")
	require.Empty(r.t, config.Rotation.Retired)
	require.Empty(r.t, r.walEntries())
	for _, id := range r.byHand {
		require.Contains(r.t, r.live(), id, "what was made by hand is not touched")
	}
}

func eachRootKind(t *testing.T, test func(t *testing.T, kind string)) {
	for _, kind := range rootKinds {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			test(t, kind)
		})
	}
}

func warnings(resp *logical.Response) string { return strings.Join(resp.Warnings, "\n") }

// TestRotateRoot shows a first rotation, from a credential made by hand, and a second one.
func TestRotateRoot(t *testing.T) {
	t.Parallel()
	eachRootKind(t, func(t *testing.T, kind string) {
		r := newRootMount(t, kind, nil)
		before := r.secretOf(r.stored())
		resp := r.rotate()
		first := resp.Data["credential_id"].(string)
		require.Equal(t, []string{first}, r.made())
		require.Equal(t, []string{r.own}, resp.Data["hand_made_credentials"])
		require.Empty(t, resp.Data["retired_ids"])
		require.Nil(t, resp.Data["next_vault_rotation"])
		require.WithinDuration(t, r.clock.now(), r.moment(resp.Data["last_vault_rotation"]), 2*time.Second)
		// Without a schedule, the credential lives for as long as Databricks allows, and whoever rotates it learns that it ends.
		ends := r.moment(resp.Data["expiry_time"])
		require.WithinDuration(t, r.clock.now().Add(maxLifetime), ends, 2*time.Minute)
		require.Contains(t, warnings(resp), rfc3339(ends))
		require.Contains(t, warnings(resp), "set rotation_period or rotation_schedule")
		require.True(t, r.works(before), "what was made by hand is left alone")
		require.NotEqual(t, before, r.secretOf(r.stored()))
		require.Contains(t, warnings(resp), r.own)

		config := r.read("config")
		for _, field := range []string{"credential_id", "expiry_time", "last_vault_rotation", "next_vault_rotation", "hand_made_credentials"} {
			require.Equal(t, resp.Data[field], config.Data[field], field)
		}
		require.Equal(t, resp.Data["last_vault_rotation"], r.read("status").Data["last_vault_rotation"])
		require.Equal(t, "nobody", r.read("status").Data["rotated_by"])
		require.Equal(t, r.kind == "pat", strings.Contains(warnings(config), r.own), "where it is seen that it is gone, a read of the config warns until then")
		sent := r.sent()
		last := sent[len(sent)-1]
		require.Equal(t, "databricks/root-rotate", string(last.Type))
		require.Equal(t, first, last.Event.GetMetadata().AsMap()["id"])
		require.Equal(t, r.own, last.Event.GetMetadata().AsMap()["replaced"])
		r.sound()

		// The second rotation replaces what the first one made: that goes on for its grace, and is then removed.
		held := r.secretOf(r.stored())
		resp = r.rotate()
		require.NotEqual(t, first, resp.Data["credential_id"])
		require.Equal(t, []string{first}, resp.Data["retired_ids"])
		r.pass(rootGrace-10*time.Second, time.Minute)
		require.True(t, r.works(held), "whoever has it may still use it")
		require.Equal(t, []string{first}, r.read("config").Data["retired_ids"])
		r.pass(time.Minute, time.Minute)
		require.False(t, r.works(held))
		require.Empty(t, r.read("config").Data["retired_ids"])
		r.sound()
	})
}

// TestRotateRootWithoutRoom shows that nothing is made, or taken away, where a service principal has all the secrets that it can have.
func TestRotateRootWithoutRoom(t *testing.T) {
	t.Parallel()
	for _, kind := range rootKinds[1:] {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			r := newRootMount(t, kind, nil)
			for range 4 {
				r.addByHand("")
			}
			before := r.stored()
			r.workspace.ResetCalls()
			resp, err := r.tryRotate()
			r.refused(resp, err, append([]string{"client_secret: ", "5 OAuth secrets", "no room"}, r.byHand...)...)
			require.Zero(t, r.workspace.Count(http.MethodPost, r.createPathOf()))
			require.Equal(t, before, r.stored())
			r.sound()

			// Where it is the engine's own that are about to go, it says when.
			r.workspace.RevokeOAuthSecret(r.byHand[4])
			r.workspace.RevokeOAuthSecret(r.byHand[3])
			r.byHand = r.byHand[:3]
			r.rotate()
			old := r.rotate().Data["retired_ids"].([]string)[0]
			resp, err = r.tryRotate()
			r.refused(resp, err, old+" is removed at", rfc3339(r.stored().Rotation.Retired[0].Until))
			r.clock.advance(6 * time.Minute)
			r.rotate() // makes the room by itself
			r.pass(6*time.Minute, time.Minute)
			r.sound()
		})
	}
}

// TestRotateRootScopes shows that the new token may do what the old one may, and no more.
func TestRotateRootScopes(t *testing.T) {
	t.Parallel()
	m, c := newTimedMount(t)
	granted := []string{"all-apis", "access-management", "authentication", "scim", "tokens"}
	made, err := http.NewRequest(http.MethodPost, m.workspace.URL()+createPath, strings.NewReader(`{"comment":"scoped","scopes":["`+strings.Join(granted, `","`)+`"]}`))
	require.NoError(t, err)
	made.Header.Set("Authorization", "Bearer "+m.token)
	reply, err := http.DefaultClient.Do(made)
	require.NoError(t, err)
	var answer struct {
		Value string `json:"token_value"`
		Info  struct {
			ID string `json:"token_id"`
		} `json:"token_info"`
	}
	require.NoError(t, decodeBody(reply, &answer))
	m.connect(map[string]any{"token": answer.Value})
	r := &rootMount{mount: m, clock: c, kind: "pat", engine: m.admin, own: answer.Info.ID}
	for range 2 {
		id := r.rotate().Data["credential_id"]
		for _, token := range m.workspace.Tokens() {
			if token.ID == id {
				require.Equal(t, granted, token.Scopes)
			}
		}
	}
}

// TestRotateRootLifetimes shows that the new credential lives for as long as the schedule needs, and for as long as it can without one.
func TestRotateRootLifetimes(t *testing.T) {
	t.Parallel()
	day := 24 * time.Hour
	for name, row := range map[string]struct {
		config  map[string]any
		granted time.Duration // of the hand-made one
		longest time.Duration // that the workspace allows, 0 for its default
		want    time.Duration // 0 for a refusal
		creates int
	}{
		"no schedule":                         {nil, 0, 0, maxLifetime - time.Minute, 1},
		"no schedule, a lower maximum":        {nil, 45 * day, 60 * day, 45 * day, 3},
		"no schedule, the usual maximum":      {nil, 0, rootLife, rootLife, 2},
		"no schedule, nothing is known":       {nil, 0, 60 * day, expirySoon, 3},
		"no schedule, a still lower maximum":  {nil, 10 * day, 7 * day, 0, 4},
		"no schedule, what was given":         {nil, 5 * day, 7 * day, 5 * day, 4},
		"a period":                            {map[string]any{"rotation_period": "24h"}, 0, 0, rootLife, 1},
		"a period longer than the maximum":    {map[string]any{"rotation_period": "960h"}, 0, expirySoon, expirySoon, 3},
		"a long period":                       {map[string]any{"rotation_period": "4320h"}, 0, 0, 187*day + rootGrace + time.Second, 1},
		"a period, a lower maximum":           {map[string]any{"rotation_period": "24h"}, 0, 60 * day, expirySoon, 2},
		"a period, a maximum that is too low": {map[string]any{"rotation_period": "720h"}, 0, 7 * day, 0, 3},
		"a schedule":                          {map[string]any{"rotation_schedule": "0 12 * * *", "rotation_window": "2h"}, 0, 7 * day, 7 * day, 4},
		"a schedule that is switched off":     {map[string]any{"rotation_period": "24h", "disable_automated_rotation": true}, 45 * day, 60 * day, 45 * day, 3},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var opts []simulator.Option
			if row.longest > 0 {
				opts = append(opts, simulator.WithMaxTokenLifetime(row.longest))
			}
			r := newRootMount(t, "pat", row.config, opts...)
			if row.granted > 0 {
				value, id := r.workspace.AddToken(r.engine, "by hand", row.granted)
				r.byHand = append(r.byHand, id)
				r.write("config", map[string]any{"token": r.unlogged(value)})
			}
			r.workspace.ResetCalls()
			resp, err := r.tryRotate()
			require.Equal(t, row.creates, r.workspace.Count("", createPath))
			if row.want == 0 {
				r.refused(resp, err, "make a new credential", "INVALID_PARAMETER_VALUE", "maximum")
				require.Empty(t, r.walEntries())
				r.sound()
				return
			}
			r.requireOK(resp, err)
			require.WithinDuration(t, r.clock.now().Add(row.want), r.moment(resp.Data["expiry_time"]), 3*time.Second)
			ends := r.workspace.Tokens()
			require.WithinDuration(t, r.moment(resp.Data["expiry_time"]), ends[len(ends)-1].Expires, 3*time.Second)
			r.sound()
		})
	}

	// What is not about the lifetime is not asked for twice.
	r := newRootMount(t, "pat", map[string]any{"rotation_period": "24h"})
	for _, status := range []int{403, 429, 500} {
		fault := r.workspace.Inject(simulator.Fault{Path: createPath, Status: status})
		_, err := r.tryRotate()
		_ = err
		require.Equal(t, 1, fault.Hits(), status)
		r.workspace.ClearFaults()
	}
	r.tick()
	r.sound()
}

// TestRotateRootIsProved shows that a new credential which does not work, or is somebody else's, is removed, and the old one stays.
func TestRotateRootIsProved(t *testing.T) {
	t.Parallel()
	eachRootKind(t, func(t *testing.T, kind string) {
		r := newRootMount(t, kind, nil)
		r.rotate()
		id := r.stored().Rotation.Credential.ID
		foreign := `{"id":"4711","userName":"stranger@example.com"}`
		if kind == "account" {
			foreign = `{"totalResults":1,"Resources":[{"id":"4711","applicationId":"` + r.engine.ApplicationID + `"}]}`
		}
		for name, fault := range map[string]simulator.Fault{
			"it does not work":    {Status: 403, ErrorCode: "PERMISSION_DENIED"},
			"it is unknown":       {Status: 401},
			"nobody knows":        {Status: 500},
			"no answer":           {Reset: true},
			"it is somebody else": {Body: foreign},
		} {
			fault.Path = r.provePathOf()
			r.workspace.Inject(fault)
			resp, err := r.tryRotate()
			require.Contains(t, r.failure(resp, err).Error(), "it is removed and the old one stays", name)
			if fault.Body != "" {
				r.coded(http.StatusBadGateway, resp, err, "the new credential belongs to")
			}
			r.workspace.ClearFaults()
			require.Equal(t, id, r.stored().Rotation.Credential.ID, name)
			require.Equal(t, []string{id}, r.made(), "%s: it is removed at once", name)
			r.sound()
		}
	})
}

// TestRotateRootMadeEndless shows that a credential without an end is not kept.
func TestRotateRootMadeEndless(t *testing.T) {
	t.Parallel()
	r := newRootMount(t, "pat", nil)
	value, id := r.workspace.AddToken(r.engine, "endless", 0)
	r.workspace.Inject(simulator.Fault{Path: createPath, Times: 1, Body: fmt.Sprintf(`{"token_value":%q,"token_info":{"token_id":%q,"creation_time":%d,"expiry_time":-1}}`, value, id, r.clock.now().UnixMilli())})
	resp, err := r.tryRotate()
	r.coded(http.StatusBadGateway, resp, err, "never ends")
	require.NotContains(t, r.live(), id)
	r.sound()
}

// TestRotateRootWhileTheConfigIsWritten shows that a credential which is written during a rotation is in force, and that other
// changes are kept.
func TestRotateRootWhileTheConfigIsWritten(t *testing.T) {
	t.Parallel()
	type outcome struct {
		resp *logical.Response
		err  error
	}
	during := func(r *rootMount, act func()) outcome {
		hold := make(chan struct{})
		fault := r.workspace.Inject(simulator.Fault{Path: r.provePathOf(), Hold: hold, Times: 1})
		done := make(chan outcome, 1)
		go func() {
			resp, err := r.tryRotate()
			done <- outcome{resp, err}
		}()
		require.Eventually(r.t, func() bool { return fault.Hits() == 1 }, 10*time.Second, time.Millisecond)
		act()
		close(hold)
		return <-done
	}
	eachRootKind(t, func(t *testing.T, kind string) {
		r := newRootMount(t, kind, nil)
		theirs := r.addByHand("theirs")
		field := "client_secret"
		if kind == "pat" {
			field = "token"
		}
		late := during(r, func() { r.write("config", map[string]any{field: theirs, "ttl": "17m"}) })
		r.coded(http.StatusConflict, late.resp, late.err, "changed by somebody else", "is in force")
		require.Equal(t, theirs, r.secretOf(r.stored()))
		require.EqualValues(t, 1020, r.stored().TTL)
		require.Empty(t, r.made(), "the new one is removed")
		require.Nil(t, r.read("config").Data["last_vault_rotation"])
		r.sound()

		late = during(r, func() { r.write("config", map[string]any{"ttl": "18m", "rotation_period": "48h"}) })
		r.requireOK(late.resp, late.err)
		require.NotEqual(t, theirs, r.secretOf(r.stored()))
		config := r.read("config").Data
		require.EqualValues(t, 1080, config["ttl"])
		require.Equal(t, r.moment(config["last_vault_rotation"]).Add(48*time.Hour), r.moment(config["next_vault_rotation"]))
		r.sound()

		// A config write that was begun before the rotation was saved would bring back what was replaced.
		hold := make(chan struct{})
		fault := r.workspace.Inject(simulator.Fault{Path: r.provePathOf(), Hold: hold, Times: 1})
		done := make(chan outcome, 1)
		go func() {
			resp, err := r.do(logical.UpdateOperation, "config", map[string]any{"ttl": "19m"})
			done <- outcome{resp, err}
		}()
		require.Eventually(t, func() bool { return fault.Hits() == 1 }, 10*time.Second, time.Millisecond)
		r.rotate()
		close(hold)
		late = <-done
		r.coded(http.StatusConflict, late.resp, late.err, "nothing was stored")
		require.EqualValues(t, 1080, r.stored().TTL)
		r.pass(6*time.Minute, time.Minute)
		r.sound()
	})
}

// TestRotateRootIsCancelled shows that a caller who leaves leaves nothing behind.
func TestRotateRootIsCancelled(t *testing.T) {
	t.Parallel()
	eachRootKind(t, func(t *testing.T, kind string) {
		r := newRootMount(t, kind, nil)
		ctx, cancel := context.WithCancel(t.Context())
		hold := make(chan struct{})
		fault := r.workspace.Inject(simulator.Fault{Path: r.provePathOf(), Hold: hold, Times: 1})
		done := make(chan error, 1)
		go func() {
			_, err := r.send(ctx, logical.UpdateOperation, "config/rotate-root", nil)
			done <- err
		}()
		require.Eventually(t, func() bool { return fault.Hits() == 1 }, 10*time.Second, time.Millisecond)

		// One that waits for its turn gives up.
		other, giveUp := context.WithCancel(t.Context())
		giveUp()
		_, err := r.send(other, logical.UpdateOperation, "config/rotate-root", nil)
		require.ErrorIs(t, err, context.Canceled)

		cancel()
		close(hold)
		<-done
		require.NotEmpty(t, r.stored().Rotation.Credential.ID, "what was begun is ended without the caller")
		r.pass(6*time.Minute, time.Minute)
		r.sound()
	})
}

// TestRotateRootAtOnce shows that rotations take turns.
func TestRotateRootAtOnce(t *testing.T) {
	t.Parallel()
	eachRootKind(t, func(t *testing.T, kind string) {
		r := newRootMount(t, kind, nil)
		errs := make(chan error, 2)
		for range 2 {
			go func() {
				resp, err := r.tryRotate()
				if err == nil && resp.IsError() {
					err = resp.Error()
				}
				errs <- err
			}()
		}
		require.NoError(t, errors.Join(<-errs, <-errs))
		require.Len(t, r.made(), 2)
		require.Len(t, r.stored().Rotation.Retired, 1)
		r.pass(6*time.Minute, time.Minute)
		r.sound()
	})
}

// TestRotateRootWhileMinting shows that no request fails because the credential is replaced under it.
func TestRotateRootWhileMinting(t *testing.T) {
	t.Parallel()
	eachRootKind(t, func(t *testing.T, kind string) {
		r := newRootMount(t, kind, nil)
		var wg sync.WaitGroup
		stop := make(chan struct{})
		failed := make(chan error, 50)
		for range 50 {
			wg.Go(func() {
				for {
					resp, err := r.do(logical.ReadOperation, "creds/own", nil)
					if err == nil && resp.IsError() {
						err = resp.Error()
					}
					if err == nil && kind == "pat" {
						resp, err = r.revoke(resp.Secret)
						if err == nil && resp.IsError() {
							err = resp.Error()
						}
					}
					if err != nil {
						failed <- err
						return
					}
					select {
					case <-stop:
						return
					default:
					}
				}
			})
		}
		for range 4 {
			r.rotate()
			if kind != "pat" {
				break // there is room for five secrets
			}
		}
		close(stop)
		wg.Wait()
		close(failed)
		require.NoError(t, <-failed)
	})
}

// TestConfigWriteReplacesARotatedCredential shows that what a rotation made is removed when the operator sends another credential.
func TestConfigWriteReplacesARotatedCredential(t *testing.T) {
	t.Parallel()
	eachRootKind(t, func(t *testing.T, kind string) {
		r := newRootMount(t, kind, map[string]any{"rotation_period": "24h"})
		made := r.rotate().Data["credential_id"].(string)
		held := r.secretOf(r.stored())
		field := "client_secret"
		if kind == "pat" {
			field = "token"
		}
		resp := r.write("config", map[string]any{field: r.addByHand("by hand again")})
		require.Empty(t, resp.Data["credential_id"])
		require.Equal(t, []string{made}, resp.Data["retired_ids"])
		require.Empty(t, resp.Data["hand_made_credentials"])
		require.WithinDuration(t, r.clock.now().Add(24*time.Hour), r.moment(resp.Data["next_vault_rotation"]), 2*time.Second, "the period begins anew")
		r.pass(4*time.Minute, time.Minute)
		require.True(t, r.works(held))
		r.pass(2*time.Minute, time.Minute)
		require.False(t, r.works(held))
		r.sound()
		r.pass(25*time.Hour, time.Hour)
		require.NotEmpty(t, r.stored().Rotation.Credential.ID)
		r.pass(6*time.Minute, time.Minute)
		r.sound()
	})
}

// TestConfigDeleteRemovesWhatRotationsMade shows that it removes all of that, and only that.
func TestConfigDeleteRemovesWhatRotationsMade(t *testing.T) {
	t.Parallel()
	eachRootKind(t, func(t *testing.T, kind string) {
		r := newRootMount(t, kind, map[string]any{"rotation_period": "24h"})
		if kind == "pat" {
			r.addByHand("somebody's vault:" + unknownUUID + ":" + strings.Repeat("a", 32) + ":1")
		}
		r.rotate()
		r.rotate()
		require.Len(t, r.made(), 2)
		resp, err := r.do(logical.DeleteOperation, "config", map[string]any{"force": true})
		r.requireOK(resp, err)
		require.NotContains(t, warnings(resp), "may be left")
		require.Empty(t, r.made())
		require.Equal(t, r.byHand, r.live())
		r.pass(48*time.Hour, 6*time.Hour)
		require.Equal(t, r.byHand, r.live())

		resp, err = r.tryRotate()
		r.refused(resp, err, "config", "no connection yet")
	})

	t.Run("where Databricks is out of reach", func(t *testing.T) {
		t.Parallel()
		r := newRootMount(t, "pat", nil)
		r.rotate()
		id := r.rotate().Data["credential_id"].(string)
		r.workspace.Inject(simulator.Fault{Reset: true})
		resp, err := r.do(logical.DeleteOperation, "config", map[string]any{"force": true})
		r.requireOK(resp, err)
		require.Equal(t, 2, strings.Count(warnings(resp), "may be left"))
		require.Contains(t, warnings(resp), id)
		require.Contains(t, warnings(resp), "ends by itself at")
		resp, err = r.do(logical.ReadOperation, "config", nil)
		require.NoError(t, err)
		require.Nil(t, resp)
	})

	t.Run("where the storage refuses", func(t *testing.T) {
		t.Parallel()
		r := newRootMount(t, "pat", nil)
		r.rotate()
		r.storage.onEach(func(op, key string) error {
			if op == "delete" {
				return errors.New("disk full")
			}
			return nil
		})
		_, err := r.do(logical.DeleteOperation, "config", nil)
		require.ErrorContains(t, err, "disk full")
		r.storage.onEach(nil)
		r.sound()
	})
}

// TestRotateRootElsewhere shows which connections have nothing to rotate, and what they are told.
func TestRotateRootElsewhere(t *testing.T) {
	t.Parallel()

	t.Run("none", func(t *testing.T) {
		t.Parallel()
		m := newMount(t)
		resp, err := m.do(logical.UpdateOperation, "config/rotate-root", nil)
		m.refused(resp, err, "no connection yet")
		m.tick()
	})

	t.Run("azure-client-secret", func(t *testing.T) {
		t.Parallel()
		m := newMount(t, simulator.WithCloud("azure"))
		config := m.azureConfig(m.workspace.AddServicePrincipal("engine", true))
		m.write("config", config)
		resp, err := m.do(logical.UpdateOperation, "config/rotate-root", nil)
		m.refused(resp, err, "auth_type: ", "Entra ID", "oidc")
		for field, value := range map[string]string{"rotation_period": "24h", "rotation_schedule": "0 3 * * *"} {
			resp, err = m.do(logical.UpdateOperation, "config", map[string]any{field: value})
			m.refused(resp, err, field+": ", "Entra ID")
		}
	})

	t.Run("oidc", func(t *testing.T) {
		t.Parallel()
		m := newMount(t)
		m.connect(map[string]any{"rotation_period": "24h"})
		resp, err := m.do(logical.UpdateOperation, "config", map[string]any{"auth_type": "oidc", "identity_token_audience": testAudience})
		m.refused(resp, err, "rotation_period: ", "no stored secret")
	})
}

// TestRotateRootOfABootstrappedMount shows that a config which was written while Databricks was out of reach rotates when it isn't.
func TestRotateRootOfABootstrappedMount(t *testing.T) {
	t.Parallel()
	m, c := newTimedMount(t)
	outage := m.workspace.Inject(simulator.Fault{Reset: true})
	m.connect(map[string]any{"verify_connection": false, "max_retries": 0, "rotation_period": "24h"})
	r := &rootMount{mount: m, clock: c, kind: "pat", engine: m.admin, own: m.workspace.Tokens()[0].ID, byHand: []string{m.workspace.Tokens()[0].ID}}
	m.write("roles/own", map[string]any{"credential_type": "pat", "ttl": "1m", "max_ttl": "2m"})
	resp, err := r.tryRotate()
	m.coded(http.StatusBadGateway, resp, err, "who the present credential belongs to")
	require.Empty(t, r.walEntries())
	outage.Clear()
	r.rotate()
	require.Equal(t, m.admin.ID, r.stored().Identity.ID)
	require.Equal(t, []string{r.own}, r.stored().Rotation.OperatorCreated)
	r.sound()
}

// TestRotateRootAfterARestart shows that a credential made in the meantime is told from that of a rotation which never ended, even
// where nothing but their lifetimes tells OAuth secrets apart, and these are the same by chance.
func TestRotateRootAfterARestart(t *testing.T) {
	t.Parallel()
	for name, created := range map[string]bool{"before it was made": false, "after it was made": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRootMount(t, "oauth-m2m", map[string]any{"rotation_period": "24h"})
			r.rotate()
			r.pass(10*time.Minute, time.Minute)
			oneLifetime := func() {
				l := &r.backend.(*backend).lifetimes
				l.mu.Lock()
				defer l.mu.Unlock()
				l.used = make(map[string]time.Time)
				for i := time.Second; i < offsetRange(rootLife); i += time.Second {
					l.used[r.engine.ID+" "+(rootLife+i).String()] = r.clock.now().Add(time.Hour)
				}
			}
			r.clock.advance(24 * time.Hour)
			oneLifetime()
			r.workspace.Inject(simulator.Fault{Method: http.MethodPost, Path: r.createPathOf(), AfterEffect: created, Reset: true})
			dead := false
			r.storage.onEach(func(op, key string) error {
				if dead = dead || r.workspace.Count(http.MethodPost, r.createPathOf()) > 1; dead {
					return logical.ErrReadOnly
				}
				return nil
			})
			_, _ = r.rollback()
			r.revive(r.clock)
			oneLifetime()
			r.rotate()
			r.pass(10*time.Minute, time.Minute)
			config := r.stored()
			require.True(t, r.works(r.secretOf(config)), "the saved credential is never taken for one that nobody has")
			require.Contains(t, r.made(), config.Rotation.Credential.ID)
			r.sound()
		})
	}
}

func decodeBody(reply *http.Response, to any) error {
	defer reply.Body.Close()
	return json.NewDecoder(reply.Body).Decode(to)
}

// TestRotateRootThenMoveAway shows what becomes of a credential that was replaced when the mount is connected as somebody else.
func TestRotateRootThenMoveAway(t *testing.T) {
	t.Parallel()

	t.Run("to an admin of the workspace", func(t *testing.T) {
		t.Parallel()
		r := newRootMount(t, "pat", nil)
		made := r.rotate().Data["credential_id"]
		token, _ := r.workspace.AddToken(r.workspace.AddUser("other@example.com", true), "another's", 0)
		r.write("config", map[string]any{"token": r.unlogged(token)})
		require.Contains(t, r.live(), made)
		r.pass(6*time.Minute, time.Minute)
		require.Empty(t, r.made())
		require.Empty(t, r.read("config").Data["retired_ids"])
	})

	t.Run("to another workspace", func(t *testing.T) {
		t.Parallel()
		r := newRootMount(t, "pat", map[string]any{"rotation_period": "24h"})
		made := r.rotate().Data["credential_id"].(string)
		ends := r.stored().Rotation.Credential.Expires
		other := simulator.New(simulator.WithWorkspaceID("4242"), simulator.WithClock(r.clock.now))
		t.Cleanup(other.Close)
		token, _ := other.AddToken(other.AddUser("engine@example.com", true), "", 0)
		r.workspace.Inject(simulator.Fault{Path: deletePath, Status: 403}) // or the move would remove it
		require.Contains(t, warnings(r.write("config", map[string]any{"host": other.URL(), "token": r.unlogged(token)})), made+" may be left at")
		r.pass(3*time.Hour, 10*time.Minute)
		require.Equal(t, []string{made}, r.read("config").Data["retired_ids"], "it is still there, and said to be")
		require.Contains(t, r.log.String(), "the mount is now connected to "+other.URL())
		r.write("config", map[string]any{"rotation_period": 0})
		r.clock.advance(ends.Sub(r.clock.now()) + 25*time.Hour)
		r.tick()
		require.Empty(t, r.read("config").Data["retired_ids"], "it has ended by itself")
	})
}

// TestRotateRootAfterItsCredentialWasDeleted shows that an operator who deletes the engine's own credential is told what is wrong,
// and that a new one, sent by hand, is all it takes.
func TestRotateRootAfterItsCredentialWasDeleted(t *testing.T) {
	t.Parallel()
	eachRootKind(t, func(t *testing.T, kind string) {
		r := newRootMount(t, kind, map[string]any{"rotation_period": "24h"})
		made := r.rotate().Data["credential_id"].(string)
		if kind == "pat" {
			r.workspace.RevokeToken(made)
		} else {
			r.workspace.RevokeOAuthSecret(made)
			r.workspace.RevokeAccessTokens()
		}
		r.pass(26*time.Hour, time.Hour)
		require.NotZero(t, r.read("status").Data["rotation_failures"])
		require.NotEmpty(t, r.read("status").Data["last_rotation_error"])
		require.Empty(t, r.walEntries())
		field := "client_secret"
		if kind == "pat" {
			field = "token"
		}
		resp := r.write("config", map[string]any{field: r.addByHand("a new one")})
		require.EqualValues(t, 0, resp.Data["rotation_failures"])
		r.pass(25*time.Hour, time.Hour)
		r.pass(6*time.Minute, time.Minute)
		r.sound()
		require.Len(t, r.made(), 1)
	})
}
