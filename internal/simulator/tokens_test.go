// SPDX-License-Identifier: MPL-2.0

package simulator_test

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/databricks/databricks-sdk-go/apierr"
	"github.com/databricks/databricks-sdk-go/common/types/fieldmask"
	"github.com/databricks/databricks-sdk-go/service/iam"
	"github.com/databricks/databricks-sdk-go/service/settings"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-databricks/internal/simulator"
)

func TestTokenLifeThroughTheSDK(t *testing.T) {
	t.Parallel()
	clock := newClock()
	w := start(t, simulator.WithClock(clock.Now))
	sp := w.AddServicePrincipal("etl", false)
	root, rootID := w.AddToken(sp, "root", 0)
	tokens := settings.NewTokens(sdk(t, w, root))

	made, err := tokens.Create(t.Context(), settings.CreateTokenRequest{Comment: "vault", LifetimeSeconds: 3600, Scopes: []string{"scim", "sql"}})
	require.NoError(t, err)
	require.Regexp(t, `^dapi[0-9a-f]{32}$`, made.TokenValue)
	sum := sha256.Sum256([]byte(made.TokenValue))
	require.Equal(t, hex.EncodeToString(sum[:]), made.TokenInfo.TokenId)
	require.Equal(t, clock.Now().UnixMilli(), made.TokenInfo.CreationTime)
	require.Equal(t, clock.Now().Add(time.Hour).UnixMilli(), made.TokenInfo.ExpiryTime)
	require.Equal(t, "vault", made.TokenInfo.Comment)
	require.Equal(t, []string{"scim", "sql"}, made.TokenInfo.Scopes)
	require.Equal(t, iam.AutoscopeStateAutoscopeStateUserSelected, made.TokenInfo.AutoscopeState)

	me, err := iam.NewCurrentUser(sdk(t, w, made.TokenValue)).Me(t.Context(), iam.MeRequest{})
	require.NoError(t, err)
	require.Equal(t, sp.ApplicationID, me.UserName)

	list, err := tokens.ListAll(t.Context())
	require.NoError(t, err)
	require.Len(t, list, 2)
	require.Equal(t, rootID, list[0].TokenId)
	require.EqualValues(t, -1, list[0].ExpiryTime)
	require.Equal(t, *made.TokenInfo, list[1])

	_, err = tokens.Update(t.Context(), settings.UpdateTokenRequest{
		TokenId: made.TokenInfo.TokenId, Token: settings.PublicTokenInfo{Comment: "new", Scopes: []string{"sql"}},
		UpdateMask: *fieldmask.New([]string{"comment", "scopes"}),
	})
	require.NoError(t, err)
	require.Equal(t, []simulator.Token{
		{ID: rootID, Comment: "root", Owner: sp.ID, Created: clock.Now().Truncate(time.Millisecond)},
		{
			ID: made.TokenInfo.TokenId, Comment: "new", Owner: sp.ID, Created: clock.Now().Truncate(time.Millisecond),
			Expires: clock.Now().Truncate(time.Millisecond).Add(time.Hour), Scopes: []string{"sql"},
		},
	}, w.Tokens())

	require.NoError(t, tokens.DeleteByTokenId(t.Context(), made.TokenInfo.TokenId))
	require.Len(t, w.Tokens(), 1)
	require.Len(t, w.AllTokens(), 2)
	require.True(t, w.AllTokens()[1].Deleted)
	require.Equal(t, 403, send(t, w, "GET", pathMe, made.TokenValue, "").status)
	err = tokens.DeleteByTokenId(t.Context(), made.TokenInfo.TokenId)
	require.ErrorIs(t, err, apierr.ErrResourceDoesNotExist)
	list, err = tokens.ListAll(t.Context())
	require.NoError(t, err)
	require.Len(t, list, 1)
}

func TestTokenDiesAtItsExpiry(t *testing.T) {
	t.Parallel()
	clock := newClock()
	w := start(t, simulator.WithClock(clock.Now))
	root, _ := w.AddToken(w.AddUser("alice@example.com", false), "", 0)
	token, id := mint(t, w, root, `{"lifetime_seconds":60}`)
	clock.advance(time.Minute - 2*time.Millisecond)
	require.Equal(t, 200, send(t, w, "GET", pathMe, token, "").status)
	clock.advance(2 * time.Millisecond)
	require.Equal(t, 403, send(t, w, "GET", pathMe, token, "").status)
	require.NotContains(t, send(t, w, "GET", pathList, root, "").body, id)
	requireRefused(t, send(t, w, "POST", pathDelete, root, `{"token_id":"`+id+`"}`), 404, "RESOURCE_DOES_NOT_EXIST")
	require.Len(t, w.Tokens(), 1)
	all := w.AllTokens()
	require.Len(t, all, 2)
	require.False(t, all[1].Deleted)
}

func TestLifetimes(t *testing.T) {
	t.Parallel()
	w := start(t, simulator.WithMaxTokenLifetime(90*24*time.Hour))
	root, _ := w.AddToken(w.AddUser("alice@example.com", false), "", 0)
	const day = 24 * 3600
	for body, seconds := range map[string]float64{
		``:                                  90 * day,
		`{}`:                                90 * day,
		`{"lifetime_seconds":null}`:         90 * day,
		`{"lifetime_seconds":1}`:            1,
		`{"lifetime_seconds":"3600"}`:       3600, // int64 as decimal string
		`{"lifetime_seconds":7776000}`:      90 * day,
		`{"lifetime_seconds":60,"x":[{}]} `: 60, // unknown members are ignored
	} {
		a := send(t, w, "POST", pathCreate, root, body)
		require.Equal(t, 200, a.status, a.body)
		info := a.json(t)["token_info"].(map[string]any)
		require.Equal(t, seconds*1000, info["expiry_time"].(float64)-info["creation_time"].(float64), body)
	}
	for body, message := range map[string]string{
		`{"lifetime_seconds":0}`:                     "requirement failed: Invalid timeout: 0",
		`{"lifetime_seconds":"0"}`:                   "requirement failed: Invalid timeout: 0",
		`{"lifetime_seconds":-1}`:                    "requirement failed: Invalid timeout: -1",
		`{"lifetime_seconds":7776001}`:               "longer than the maximum of 7776000 seconds",
		`{"lifetime_seconds":"9223372036854775807"}`: "longer than the maximum",
	} {
		a := send(t, w, "POST", pathCreate, root, body)
		requireRefused(t, a, 400, "INVALID_PARAMETER_VALUE")
		require.Contains(t, a.json(t)["message"], message)
	}
	require.Len(t, w.Tokens(), 1+7)
}

func TestDefaultMaximumIs730Days(t *testing.T) {
	t.Parallel()
	w := start(t)
	root, _ := w.AddToken(w.AddUser("alice@example.com", false), "", 0)
	mint(t, w, root, `{"lifetime_seconds":63072000}`)
	requireRefused(t, send(t, w, "POST", pathCreate, root, `{"lifetime_seconds":63072001}`), 400, "INVALID_PARAMETER_VALUE")
}

func TestMalformedBodies(t *testing.T) {
	t.Parallel()
	w := start(t)
	root, id := w.AddToken(w.AddUser("alice@example.com", false), "", 0)
	for _, body := range []string{`{`, `[]`, `{} {}`, `nope`, `{"lifetime_seconds":1.5}`, `{"lifetime_seconds":""}`, `{"lifetime_seconds":"x"}`, `{"comment":5}`, `{"scopes":"sql"}`} {
		requireRefused(t, send(t, w, "POST", pathCreate, root, body), 400, "MALFORMED_REQUEST")
	}
	requireRefused(t, send(t, w, "POST", pathDelete, root, `{"token_id":5}`), 400, "MALFORMED_REQUEST")
	requireRefused(t, send(t, w, "PATCH", "/api/2.0/token/"+id, root, `{`), 400, "MALFORMED_REQUEST")
	require.Len(t, w.AllTokens(), 1)
}

func TestEmptyListsLeaveTheKeyOut(t *testing.T) {
	t.Parallel()
	w := start(t)
	sp := w.AddServicePrincipal("etl", true)
	_, secret := w.AddOAuthSecret(sp, 0)
	access := grant(t, w, sp.ApplicationID, secret, "").json(t)["access_token"].(string)
	require.Equal(t, "{}", send(t, w, "GET", pathList, access, "").body)
	require.Equal(t, "{}", send(t, w, "GET", pathManaged, access, "").body)
}

func TestAutoscopeStates(t *testing.T) {
	t.Parallel()
	w := start(t)
	root, _ := w.AddToken(w.AddUser("alice@example.com", false), "", 0)
	for body, state := range map[string]string{
		`{}`:                         "AUTOSCOPE_STATE_DISABLED",
		`{"autoscope_enabled":true}`: "AUTOSCOPE_STATE_RUNNING",
		`{"autoscope_enabled":true,"scopes":["sql"]}`: "AUTOSCOPE_STATE_USER_SELECTED",
	} {
		a := send(t, w, "POST", pathCreate, root, body)
		info := a.json(t)["token_info"].(map[string]any)
		require.Equal(t, state, info["autoscope_state"])
		if !strings.Contains(body, "scopes\"") {
			require.NotContains(t, info, "scopes")
		}
	}
}

func TestTokensBelongToTheirOwner(t *testing.T) {
	t.Parallel()
	w := start(t)
	alice, bob := w.AddUser("alice@example.com", false), w.AddUser("bob@example.com", true)
	aliceToken, aliceID := w.AddToken(alice, "", 0)
	bobToken, _ := w.AddToken(bob, "", 0)
	require.NotContains(t, send(t, w, "GET", pathList, bobToken, "").body, aliceID)
	requireRefused(t, send(t, w, "POST", pathDelete, bobToken, `{"token_id":"`+aliceID+`"}`), 404, "RESOURCE_DOES_NOT_EXIST")
	requireRefused(t, send(t, w, "PATCH", "/api/2.0/token/"+aliceID, bobToken, `{"token":{},"update_mask":"comment"}`), 404, "NOT_FOUND")
	require.Len(t, w.Tokens(), 2)
	child, _ := mint(t, w, aliceToken, `{}`)
	require.Equal(t, alice.ID, send(t, w, "GET", pathMe, child, "").json(t)["id"])
}

func TestDeletingAnAbsentTokenHasThreeForms(t *testing.T) {
	t.Parallel()
	for form, expected := range map[simulator.DeleteAbsentForm]struct {
		status int
		code   string
	}{
		simulator.DeleteAbsentResourceDoesNotExist: {404, "RESOURCE_DOES_NOT_EXIST"},
		simulator.DeleteAbsentNotFound:             {404, "NOT_FOUND"},
		simulator.DeleteAbsentBadRequest:           {400, "INVALID_PARAMETER_VALUE"},
	} {
		w := start(t, simulator.WithDeleteAbsent(form))
		root, _ := w.AddToken(w.AddUser("alice@example.com", false), "", 0)
		a := send(t, w, "POST", pathDelete, root, `{"token_id":"abc"}`)
		requireRefused(t, a, expected.status, expected.code)
		require.Contains(t, a.json(t)["message"], "does not exist")
		requireRefused(t, send(t, w, "POST", pathDelete, root, `{}`), 400, "INVALID_PARAMETER_VALUE")
	}
}

func TestUpdatingATokenFollowsItsMask(t *testing.T) {
	t.Parallel()
	w := start(t)
	root, _ := w.AddToken(w.AddUser("alice@example.com", false), "", 0)
	_, id := mint(t, w, root, `{"comment":"old","scopes":["sql"]}`)
	path := "/api/2.0/token/" + id
	for _, body := range []string{
		`{}`, `{"token":{"comment":"x"}}`, `{"update_mask":"comment"}`,
		`{"token":{"comment":"x"},"update_mask":"expiry_time"}`,
		`{"token":{"comment":"x"},"update_mask":"comment, scopes"}`,
	} {
		requireRefused(t, send(t, w, "PATCH", path, root, body), 400, "INVALID_PARAMETER_VALUE")
	}
	require.Equal(t, "old", w.Tokens()[1].Comment)

	patch := func(body string) {
		a := send(t, w, "PATCH", path, root, body)
		require.Equal(t, 200, a.status, a.body)
		require.Equal(t, "{}", a.body)
	}
	patch(`{"token":{"comment":"new","scopes":["scim"]},"update_mask":"comment"}`)
	require.Equal(t, "new", w.Tokens()[1].Comment)
	require.Equal(t, []string{"sql"}, w.Tokens()[1].Scopes)
	patch(`{"token":{"comment":"","scopes":["scim"]},"update_mask":"scopes"}`)
	require.Equal(t, "new", w.Tokens()[1].Comment)
	require.Equal(t, []string{"scim"}, w.Tokens()[1].Scopes)
	patch(`{"token":{},"update_mask":"*"}`)
	require.Empty(t, w.Tokens()[1].Comment)
	require.Empty(t, w.Tokens()[1].Scopes)
	require.Contains(t, send(t, w, "GET", pathList, root, "").body, "AUTOSCOPE_STATE_DISABLED")
	requireRefused(t, send(t, w, "PATCH", "/api/2.0/token/nope", root, `{"token":{},"update_mask":"comment"}`), 404, "NOT_FOUND")
}

func TestQuotaCountsLiveTokensOfOnePrincipal(t *testing.T) {
	t.Parallel()
	clock := newClock()
	w := start(t, simulator.WithClock(clock.Now), simulator.WithTokenQuota(4))
	alice := w.AddUser("alice@example.com", false)
	root, _ := w.AddToken(alice, "", 0)
	other, _ := w.AddToken(w.AddUser("bob@example.com", false), "", 0)
	mint(t, w, root, `{"lifetime_seconds":60}`)
	mint(t, w, root, `{"lifetime_seconds":60}`)
	_, last := mint(t, w, root, `{"lifetime_seconds":3600}`)
	a := send(t, w, "POST", pathCreate, root, `{}`)
	requireRefused(t, a, 400, "QUOTA_EXCEEDED")
	mint(t, w, other, `{}`) // the quota is each principal's own

	require.Equal(t, 200, send(t, w, "POST", pathDelete, root, `{"token_id":"`+last+`"}`).status)
	mint(t, w, root, `{}`) // a deleted token is no longer counted
	requireRefused(t, send(t, w, "POST", pathCreate, root, `{}`), 400, "QUOTA_EXCEEDED")

	clock.advance(time.Minute)
	mint(t, w, root, `{}`) // neither are expired ones
	mint(t, w, root, `{}`)
	requireRefused(t, send(t, w, "POST", pathCreate, root, `{}`), 400, "QUOTA_EXCEEDED")
	clock.advance(2 * time.Hour) // the deleted one expires, too, and is not counted twice
	requireRefused(t, send(t, w, "POST", pathCreate, root, `{}`), 400, "QUOTA_EXCEEDED")

	w.AddToken(alice, "by hand", 0) // no quota by hand
	require.Len(t, w.Tokens(), 7)
}

func TestQuotaHoldsUnderConcurrency(t *testing.T) {
	t.Parallel()
	w := start(t)
	root, _ := w.AddToken(w.AddUser("alice@example.com", false), "", 0)
	codes := make(chan int, 700)
	var group sync.WaitGroup
	for range 10 {
		group.Go(func() {
			c := &http.Client{Transport: &http.Transport{}}
			defer c.CloseIdleConnections()
			for range 70 {
				req, _ := http.NewRequest("POST", w.URL()+pathCreate, strings.NewReader(`{}`))
				req.Header.Set("Authorization", "Bearer "+root)
				if resp, err := c.Do(req); err == nil {
					resp.Body.Close()
					codes <- resp.StatusCode
				}
			}
		})
	}
	group.Wait()
	close(codes)
	counts := map[int]int{}
	for code := range codes {
		counts[code]++
	}
	require.Equal(t, map[int]int{200: 599, 400: 101}, counts)
	require.Len(t, w.Tokens(), 600)
}

func TestImportToken(t *testing.T) {
	t.Parallel()
	w := start(t)
	alice := w.AddUser("alice@example.com", false)
	value := "dapi00000000000000000000000000000001"
	id := w.ImportToken(alice, value, "known", time.Hour)
	require.Equal(t, id, w.Tokens()[0].ID)
	require.Equal(t, 200, send(t, w, "GET", pathMe, value, "").status)
	require.Panics(t, func() { w.ImportToken(alice, value, "again", 0) })
}

// The set must stay right while it sweeps out dead tokens and the clock moves
// both ways.
func TestManyTokensComeAndGo(t *testing.T) {
	t.Parallel()
	clock := newClock()
	w := start(t, simulator.WithClock(clock.Now), simulator.WithTokenQuota(200))
	alice := w.AddUser("alice@example.com", false)
	root, _ := w.AddToken(alice, "", 0)
	for i := range 2000 {
		_, id := w.AddToken(alice, fmt.Sprint(i), time.Hour)
		if i%10 != 0 {
			require.True(t, w.RevokeToken(id))
		}
		if i%100 == 0 {
			clock.advance(50 * time.Minute)
			send(t, w, "GET", pathList, root, "")
		}
	}
	live := w.Tokens()
	require.NotEmpty(t, live)
	require.Len(t, send(t, w, "GET", pathList, root, "").json(t)["token_infos"], len(live))

	_, id := w.AddToken(alice, "", time.Hour)
	clock.advance(2 * time.Hour)
	require.Equal(t, 200, send(t, w, "POST", pathCreate, root, `{}`).status)
	clock.advance(-2 * time.Hour)
	require.True(t, w.RevokeToken(id))
	require.Equal(t, 200, send(t, w, "GET", pathList, root, "").status)
}

func TestHundredThousandTokens(t *testing.T) {
	t.Parallel()
	const many = 100_000
	w := start(t, simulator.WithTokenQuota(many+10))
	alice := w.AddUser("alice@example.com", true)
	root, _ := w.AddToken(alice, "", 0)
	for i := range many {
		w.AddToken(alice, "bulk", time.Duration(many-i)*time.Minute)
	}
	value, id := mint(t, w, root, `{"lifetime_seconds":60}`)
	require.Equal(t, 200, send(t, w, "GET", pathMe, value, "").status)
	require.Equal(t, 200, send(t, w, "POST", pathDelete, root, `{"token_id":"`+id+`"}`).status)
	require.Len(t, w.Tokens(), many+1)
	require.Equal(t, many+1, strings.Count(send(t, w, "GET", pathManaged, root, "").body, `"token_id"`))
}
