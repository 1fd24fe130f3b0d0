// SPDX-License-Identifier: MPL-2.0

package databricks

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"strings"
	"testing"
	"time"

	"vault-plugin-secrets-databricks/internal/client"
	"vault-plugin-secrets-databricks/internal/simulator"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/require"
)

// TestAHandMadeTokenIsNamedUntilItIsDeleted shows that an operator who reads the config is reminded of it, and no longer than that.
func TestAHandMadeTokenIsNamedUntilItIsDeleted(t *testing.T) {
	t.Parallel()
	m, c := newTimedMount(t)
	m.connect(map[string]any{"rotation_period": "24h"})
	require.Empty(t, m.read("config").Warnings)
	id := m.write("config/rotate-root", nil).Data["hand_made_credentials"].([]string)[0]
	for range 3 {
		require.Contains(t, strings.Join(m.read("config").Warnings, "\n"), "vault delete databricks/tokens/"+id)
		m.goOn(c, day+time.Hour, time.Hour)
	}
	m.gone("tokens/" + id)
	require.Empty(t, m.read("config").Warnings)
	require.Empty(t, m.read("config").Data["hand_made_credentials"])
	require.NotContains(t, strings.Join(m.write("config/rotate-root", nil).Warnings, "\n"), id)
}

// TestAHandMadeSecretIsNamedByTheRotation shows that only a rotation names it, which is when the engine sees whether it still lives.
func TestAHandMadeSecretIsNamedByTheRotation(t *testing.T) {
	t.Parallel()
	m, c := newTimedMount(t)
	engine, id := m.connectPrincipal(map[string]any{"rotation_period": "24h"})
	for range 2 {
		require.Contains(t, strings.Join(m.write("config/rotate-root", nil).Warnings, "\n"), "service-principal-secrets-proxy delete "+engine.ID+" "+id)
		require.Empty(t, m.read("config").Warnings)
		m.goOn(c, time.Hour, 10*time.Minute)
	}
	m.workspace.RevokeOAuthSecret(id)
	m.goOn(c, 3*day, time.Hour)
	require.Empty(t, m.read("config").Warnings)
	require.Empty(t, m.read("config").Data["hand_made_credentials"])
	require.NotContains(t, strings.Join(m.write("config/rotate-root", nil).Warnings, "\n"), id)
}

// TestAHandMadeCredentialIsReplacedBeforeItEnds shows it for one that lives for less than the period.
func TestAHandMadeCredentialIsReplacedBeforeItEnds(t *testing.T) {
	t.Parallel()
	schedule := map[string]any{"rotation_period": "720h"}
	for name, begin := range map[string]func(m *mount) *logical.Response{
		"token": func(m *mount) *logical.Response {
			return m.connect(map[string]any{"token": m.byHand(7 * day)}, schedule)
		},
		"token, scheduled later": func(m *mount) *logical.Response {
			m.connect(map[string]any{"token": m.byHand(7 * day)})
			return m.write("config", schedule)
		},
		"token, in place of another": func(m *mount) *logical.Response {
			m.connect(schedule)
			return m.write("config", map[string]any{"token": m.byHand(7 * day)})
		},
		"secret": func(m *mount) *logical.Response {
			engine := m.workspace.AddServicePrincipal("engine", true)
			_, secret := m.workspace.AddOAuthSecret(engine, 7*day)
			m.canaries.add(secret)
			return m.write("config", map[string]any{"host": m.workspace.URL(), "client_id": engine.ApplicationID, "client_secret": secret, "rotation_period": "720h"})
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m, c := newTimedMount(t)
			written := begin(m)
			require.Empty(t, written.Warnings)
			ends := c.now().Add(7 * day)
			for _, shown := range []map[string]any{written.Data, m.read("config").Data} {
				require.WithinDuration(t, ends, m.moment(shown["expiry_time"]), time.Minute)
				require.True(t, m.moment(shown["next_vault_rotation"]).Before(ends.Add(-time.Hour)), "%s", shown["next_vault_rotation"])
				require.Empty(t, shown["credential_id"])
			}
			m.goOn(c, 7*day-time.Hour, time.Hour)
			require.Len(t, m.told("root-rotate"), 1)
			m.goOn(c, 31*day, 6*time.Hour)
			require.Len(t, m.told("root-rotate"), 2, "then by its period")
			require.Empty(t, m.told("root-rotate-fail"))
			m.write("config", map[string]any{"ttl": "1h"}) // which is verified
		})
	}
}

// TestAnEndThatCannotBeFoundOutIsWarnedOf shows that the operator is told of a hand-made credential whose end isn't known.
func TestAnEndThatCannotBeFoundOutIsWarnedOf(t *testing.T) {
	t.Parallel()
	m, _ := newTimedMount(t)
	fault := m.workspace.Inject(simulator.Fault{Path: listPath, Status: 403})
	resp := m.connect(map[string]any{"rotation_period": "720h", "max_retries": 0})
	require.Contains(t, strings.Join(resp.Warnings, "\n"), "could not be found out when the credential ends")
	fault.Clear()
	require.Empty(t, m.write("config", map[string]any{"ttl": "1h"}).Warnings)

	m, _ = newTimedMount(t)
	engine, _ := m.connectPrincipal(nil)
	m.workspace.AddOAuthSecret(engine, 7*day)
	resp = m.write("config", map[string]any{"rotation_period": "720h"})
	require.Contains(t, strings.Join(resp.Warnings, "\n"), "isn't known when it ends")
}

// TestScopesStayAtTheFirstRotation shows that a token whose scopes can be told from none is not replaced.
func TestScopesStayAtTheFirstRotation(t *testing.T) {
	t.Parallel()
	for name, body := range map[string]string{"empty": "{}", "others": tokenList(t, nil, []string{"sql"})} {
		t.Run(name, func(t *testing.T) {
			m, scopes := scopedRoot(t)
			m.workspace.Inject(simulator.Fault{Path: listPath, Status: http.StatusOK, Body: body, Times: 1})
			resp, err := m.do(logical.UpdateOperation, "config/rotate-root", nil)
			if err == nil && !resp.IsError() {
				require.Equal(t, scopes, m.scopesOf(resp.Data["credential_id"].(string)))
			}
		})
	}
}

// TestRotateRootNamesWhatWasMadeByHand shows that the operator can do what the warning says, and that it goes then.
func TestRotateRootNamesWhatWasMadeByHand(t *testing.T) {
	t.Parallel()
	eachRootKind(t, func(t *testing.T, kind string) {
		r := newRootMount(t, kind, nil)
		resp := r.rotate()
		switch kind {
		case "pat":
			require.Contains(t, warnings(resp), "vault delete databricks/tokens/"+r.own)
			resp, err := r.do(logical.DeleteOperation, "tokens/"+r.own, nil)
			r.requireOK(resp, err)
		case "account":
			require.Contains(t, warnings(resp), "databricks account service-principal-secrets delete "+r.engine.ID+" "+r.own)
			r.workspace.RevokeOAuthSecret(r.own)
		default:
			require.Contains(t, warnings(resp), "databricks service-principal-secrets-proxy delete "+r.engine.ID+" "+r.own)
			r.workspace.RevokeOAuthSecret(r.own)
		}
		r.byHand = nil
		resp = r.rotate()
		require.Empty(t, resp.Data["hand_made_credentials"])
		require.NotContains(t, warnings(resp), r.own)
		require.NotContains(t, warnings(r.read("config")), r.own)
	})
}

// TestRotateRootRecognisesATokenByItsHash shows that other tokens of the same user, whatever they are called, confuse nothing.
func TestRotateRootRecognisesATokenByItsHash(t *testing.T) {
	t.Parallel()
	r := newRootMount(t, "pat", nil)
	for i := range 5 {
		r.addByHand(fmt.Sprintf("the engine's own %d", i))
	}
	r.addByHand("the engine's own")
	require.Equal(t, []string{r.own}, r.rotate().Data["hand_made_credentials"])
	r.sound()
}

// TestRotateRootUnrecognised shows what the operator is told where the present credential can't be told from others.
func TestRotateRootUnrecognised(t *testing.T) {
	t.Parallel()
	for _, kind := range rootKinds[1:] {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			r := newRootMount(t, kind, nil)
			r.addByHand("")
			resp := r.rotate()
			require.Empty(t, resp.Data["hand_made_credentials"])
			for _, id := range r.byHand {
				require.Contains(t, warnings(resp), id)
			}
			require.Contains(t, warnings(resp), "can't be told from the others")
			r.sound()

			// From then on, ids are stored.
			resp = r.rotate()
			require.NotContains(t, warnings(resp), "can't be told")
			r.pass(6*time.Minute, time.Minute)
			r.sound()
		})
	}

	t.Run("a token that is not listed", func(t *testing.T) {
		t.Parallel()
		r := newRootMount(t, "pat", nil)
		r.workspace.Inject(simulator.Fault{Path: listPath, Body: `{"token_infos":[{"token_id":"another","comment":"by hand"}]}`, Times: 1})
		resp, err := r.backend.HandleRequest(t.Context(), &logical.Request{
			Operation: logical.UpdateOperation, Path: "config/rotate-root", Storage: r.storage, MountPoint: "teams/dbx/",
		})
		r.requireOK(resp, err)
		require.Empty(t, resp.Data["hand_made_credentials"])
		require.Contains(t, warnings(resp), "can't be recognised")
		require.Contains(t, warnings(resp), "vault list teams/dbx/tokens")
		r.sound()
	})
}

// TestRotateRootSingleBesidesItsOwn shows that an OAuth secret is known to be the single one made by hand, whatever the engine still has.
func TestRotateRootSingleBesidesItsOwn(t *testing.T) {
	t.Parallel()
	r := newRootMount(t, "oauth-m2m", nil)
	first := r.rotate().Data["credential_id"]
	r.workspace.RevokeOAuthSecret(r.own)
	r.byHand = nil
	value := r.addByHand("")
	r.write("config", map[string]any{"client_secret": value})
	require.Equal(t, []string{first.(string)}, r.read("config").Data["retired_ids"])
	require.Equal(t, r.byHand, r.rotate().Data["hand_made_credentials"])
	r.pass(6*time.Minute, time.Minute)
	r.sound()
}

// TestWhatIsRecognisedBesidesStaticRoles shows that secrets which a static role has are neither taken for the one that was made by
// hand nor shown as what might be it.
func TestWhatIsRecognisedBesidesStaticRoles(t *testing.T) {
	t.Parallel()
	for _, more := range []int{0, 1} {
		m, _ := newTimedMount(t)
		sp, byHand := m.connectPrincipal(nil)
		var others []string
		for range more {
			id, _ := m.workspace.AddOAuthSecret(sp, 0)
			others = append(others, id)
		}
		static := m.write("static-roles/x", map[string]any{"credential_type": "oauth_secret", "application_id": sp.ApplicationID, "rotation_period": "24h"}).Data["credential_id"].(string)
		resp := m.write("config/rotate-root", nil)
		text := ""
		for _, warning := range resp.Warnings {
			text += warning + "\n"
		}
		require.NotContains(t, text, static)
		require.Contains(t, text, byHand)
		if more == 0 {
			require.Equal(t, []string{byHand}, resp.Data["hand_made_credentials"])
			require.NotContains(t, text, "can't be told")
			continue
		}
		require.Empty(t, resp.Data["hand_made_credentials"])
		require.Contains(t, text, "can't be told")
		for _, id := range others {
			require.Contains(t, text, id)
		}
	}
}

// scopedRoot connects the mount with a token that has API scopes, and answers them.
func scopedRoot(t *testing.T) (*mount, []string) {
	t.Helper()
	m, _ := newTimedMount(t)
	m.connect(map[string]any{"max_retries": 0})
	scopes := []string{"authentication", "scim"}
	m.write("roles/s", map[string]any{"credential_type": "pat", "scopes": scopes})
	m.write("config", map[string]any{"token": m.read("creds/s").Data["token_value"]})
	return m, scopes
}

// scopesOf are the API scopes of a live token.
func (m *mount) scopesOf(id string) []string {
	for _, token := range m.workspace.Tokens() {
		if token.ID == id {
			return token.Scopes
		}
	}
	require.Fail(m.t, "there is no such token", id)
	return nil
}

// tokenList is an answer to a listing of tokens.
func tokenList(t *testing.T, scopes ...[]string) string {
	t.Helper()
	infos := []map[string]any{}
	for i, scopes := range scopes {
		infos = append(infos, map[string]any{"token_id": nonce(i) + nonce(i), "creation_time": 1772366400000, "expiry_time": -1, "comment": "somebody's", "scopes": scopes})
	}
	body, err := json.Marshal(map[string]any{"token_infos": infos})
	require.NoError(t, err)
	return string(body)
}

// TestScopesOfTheEnginesTokenStay shows that a rotation never gives a token more API scopes than the one before had, even when
// Databricks' list lags behind.
func TestScopesOfTheEnginesTokenStay(t *testing.T) {
	t.Parallel()
	for name, body := range map[string]string{
		"up to date":         "",
		"empty":              "{}",
		"others":             tokenList(t, nil, nil),
		"others with scopes": tokenList(t, []string{"sql"}, nil),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m, scopes := scopedRoot(t)
			require.Equal(t, scopes, m.scopesOf(m.write("config/rotate-root", nil).Data["credential_id"].(string)))
			for range 2 {
				if body != "" {
					m.workspace.Inject(simulator.Fault{Path: listPath, Status: http.StatusOK, Body: body, Times: 1})
				}
				require.Equal(t, scopes, m.scopesOf(m.write("config/rotate-root", nil).Data["credential_id"].(string)))
			}
		})
	}
}

// TestATokenOfUnknownScopesIsNotReplaced shows that a token made by hand that isn't found among others with API scopes is not replaced
// by one that could do more.
func TestATokenOfUnknownScopesIsNotReplaced(t *testing.T) {
	t.Parallel()
	m, scopes := scopedRoot(t)
	before := len(m.workspace.Tokens())
	m.workspace.Inject(simulator.Fault{Path: listPath, Status: http.StatusOK, Body: tokenList(t, nil, []string{"sql"}), Times: 1})
	resp, err := m.do(logical.UpdateOperation, "config/rotate-root", nil)
	m.refused(resp, err, "token: ", "API scopes")
	require.Len(t, m.workspace.Tokens(), before)
	require.Empty(t, m.walEntries())
	require.Equal(t, scopes, m.scopesOf(m.write("config/rotate-root", nil).Data["credential_id"].(string)), "and when it is found, it is")
}

// warningsAbout are the warnings that contain the word.
func warningsAbout(resp *logical.Response, word string) []string {
	var found []string
	for _, warning := range resp.Warnings {
		if strings.Contains(warning, word) {
			found = append(found, warning)
		}
	}
	return found
}

// TestEndOfTheConfigsOwnCredentialIsShown: nothing rotates it, so somebody has to know.
func TestEndOfTheConfigsOwnCredentialIsShown(t *testing.T) {
	t.Parallel()
	for name, row := range map[string]struct {
		lives time.Duration
		m2m   bool
		more  map[string]any
		warns []string
	}{
		"token of an hour":                 {time.Hour, false, nil, []string{"and nothing replaces it before", "rotation_period"}},
		"token of two months":              {60 * day, false, nil, nil},
		"token without an end":             {0, false, nil, nil},
		"token of an hour, rotated":        {time.Hour, false, map[string]any{"rotation_period": "24h"}, nil},
		"token of an hour, suspended":      {time.Hour, false, map[string]any{"rotation_period": "24h", "disable_automated_rotation": true}, []string{"nothing replaces it"}},
		"secret of an hour":                {time.Hour, true, nil, []string{"and nothing replaces it before", "rotation_period"}},
		"secret of two months, by default": {60 * day, true, nil, nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m, c := newTimedMount(t)
			config := map[string]any{"host": m.workspace.URL()}
			if row.m2m {
				sp := m.workspace.AddServicePrincipal("engine", true)
				_, secret := m.workspace.AddOAuthSecret(sp, row.lives)
				config["client_id"], config["client_secret"] = sp.ApplicationID, m.unlogged(secret)
			} else {
				token, _ := m.workspace.AddToken(m.admin, "short", row.lives)
				config["token"] = m.unlogged(token)
			}
			maps.Copy(config, row.more)
			end := c.vault().Add(row.lives)
			wrote := m.write("config", config)
			for _, resp := range []*logical.Response{wrote, m.read("config")} {
				if row.lives == 0 {
					require.Empty(t, resp.Data["expiry_time"])
				} else {
					require.WithinDuration(t, end, m.moment(resp.Data["expiry_time"]), 2*time.Second)
				}
				warnings := warningsAbout(resp, "The credential of this config")
				if row.warns == nil {
					require.Empty(t, warnings)
					continue
				}
				require.Len(t, warnings, 1)
				for _, word := range append(row.warns, resp.Data["expiry_time"].(string)) {
					require.Contains(t, warnings[0], word)
				}
			}
			m.restart()
			m.backend.(*backend).clock = c.vault
			m.workspace.ResetCalls()
			status := m.read("status").Data["expiry_time"]
			if row.lives == 0 {
				require.Nil(t, status)
			} else {
				require.Equal(t, wrote.Data["expiry_time"], status)
			}
			require.Empty(t, m.workspace.Calls())
		})
	}
}

func TestEndOfTheConfigsOwnCredentialCostsNoCallOfAMint(t *testing.T) {
	t.Parallel()
	m := newMount(t)
	token, _ := m.workspace.AddToken(m.admin, "short", time.Hour)
	m.connect(map[string]any{"token": m.unlogged(token)})
	m.write("roles/etl", map[string]any{"credential_type": "pat"})
	m.workspace.ResetCalls()
	m.mint("etl")
	require.Equal(t, []string{"POST " + createPath}, m.requests())
	m.workspace.ResetCalls()
	require.NotEmpty(t, warningsAbout(m.write("config", map[string]any{"ttl": "5m"}), "The credential of this config"))
	require.Len(t, m.workspace.Calls(), 1, "it is known by now")

	// Another credential has another end, or none.
	require.Empty(t, warningsAbout(m.connect(), "The credential of this config"))
	require.Empty(t, m.read("config").Data["expiry_time"])
	require.Nil(t, m.read("status").Data["expiry_time"])
}

// TestEndThatNobodyMayLookUp: an identity without rights on its own credentials connects as before, and hears of it only where a schedule
// depends on the end.
func TestEndThatNobodyMayLookUp(t *testing.T) {
	t.Parallel()
	m := newMount(t)
	m.workspace.Inject(simulator.Fault{Path: "/api/2.0/token/list", Status: http.StatusForbidden})
	require.Empty(t, m.connect().Warnings)
	require.Empty(t, m.read("config").Data["expiry_time"])
	require.NotEmpty(t, warningsAbout(m.write("config", map[string]any{"rotation_period": "24h"}), "It could not be found out when the credential ends"))
}

// TestAccessTokenAsToken: it tells its own end, and nothing can renew it.
func TestAccessTokenAsToken(t *testing.T) {
	t.Parallel()
	m := newMount(t)
	sp := m.workspace.AddServicePrincipal("engine", true)
	_, secret := m.workspace.AddOAuthSecret(sp, day)
	access := m.unlogged(m.login("/oidc/v1/token", sp.ApplicationID, secret))
	m.workspace.ResetCalls()
	for _, more := range []map[string]any{{"verify_connection": false}, {"verify_connection": true}, {"rotation_period": "24h"}} {
		resp := m.connect(map[string]any{"token": access}, more)
		require.WithinDuration(t, time.Now().Add(time.Hour), m.moment(resp.Data["expiry_time"]), time.Minute)
		require.Len(t, warningsAbout(resp, "token is an access token, which ends at "+resp.Data["expiry_time"].(string)), 1)
		require.Equal(t, resp.Data["expiry_time"], m.read("status").Data["expiry_time"])
		if more["verify_connection"] == false {
			require.Empty(t, m.workspace.Calls())
		}
	}
	require.Zero(t, m.workspace.Count(http.MethodGet, "/api/2.0/token/list"))
}

func TestAccessTokenEnd(t *testing.T) {
	t.Parallel()
	part := func(text string) string { return base64.RawURLEncoding.EncodeToString([]byte(text)) }
	for claims, want := range map[string]int64{
		`{"exp":1900000000}`: 1900000000, `{"exp":1900000000.5}`: 1900000000, `{"exp":1.9e9,"sub":"x"}`: 1900000000,
		`{"exp":0}`: 0, `{"exp":-1}`: 0, `{"exp":1e300}`: 0, `{"exp":253402300800}`: 0, `{"exp":"1900000000"}`: 0, `{}`: 0, `[]`: 0, `no JSON`: 0, ``: 0,
	} {
		end := accessTokenEnd(client.Secret("head." + part(claims) + ".signature"))
		require.Equal(t, want == 0, end.IsZero(), claims)
		if want != 0 {
			require.Equal(t, want, end.Unix(), claims)
		}
	}
	for _, token := range []string{"", "dapi0123456789", "a.b", "a.b.c", "a." + part(`{"exp":1900000000}`), "a." + part(`{"exp":1900000000}`) + ".c.d"} {
		require.True(t, accessTokenEnd(client.Secret(token)).IsZero(), token)
	}
}
