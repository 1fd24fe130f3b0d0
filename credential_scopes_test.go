// SPDX-License-Identifier: MPL-2.0

package databricks

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-databricks/internal/simulator"
)

// widening has the workspaces that answer another secret than was asked for.
var widening = map[string]struct {
	opt     simulator.Option
	refused bool
}{
	"scopes are ignored": {simulator.WithoutSecretScopes(), false},
	"scopes are added":   {simulator.WithAddedSecretScopes("clusters"), true},
}

// scopedTypes has mounts with a role "job" for OAuth secrets with the scopes sql and jobs.
var scopedTypes = map[string]func(t *testing.T, opts ...simulator.Option) *mount{
	"oauth_secret":      func(t *testing.T, opts ...simulator.Option) *mount { m, _ := secretReady(t, opts...); return m },
	"service_principal": principalReady,
	"oauth_secret of an account": func(t *testing.T, opts ...simulator.Option) *mount {
		m, _ := newTimedMount(t, append(opts, simulator.WithAccount(testAccountID))...)
		engine := m.workspace.AddAccountAdmin(m.workspace.AddServicePrincipal("engine", true))
		_, secret := m.workspace.AddOAuthSecret(engine, 0)
		m.write("config", map[string]any{"host": m.workspace.URL(), "account_id": testAccountID, "client_id": engine.ApplicationID, "client_secret": m.unlogged(secret)})
		job := m.workspace.AddServicePrincipal("job", false)
		m.write("roles/job", map[string]any{"credential_type": "oauth_secret", "application_id": job.ApplicationID, "scopes": "sql,jobs", "max_ttl": "1h"})
		return m
	},
}

// scopedSecrets returns the scopes of the live secrets that the mount made.
func (m *mount) scopedSecrets() [][]string {
	m.t.Helper()
	all := [][]string{}
	for _, sp := range m.workspace.ServicePrincipals() {
		if sp.DisplayName == "engine" {
			continue
		}
		for _, secret := range m.workspace.OAuthSecrets(sp) {
			all = append(all, secret.Scopes)
		}
	}
	return all
}

// principals returns how many service principals there are.
func (m *mount) principals() int { return len(m.workspace.ServicePrincipals()) }

// A workspace that doesn't know scopes of OAuth secrets ignores them. Roles of v0.1.0 go on working there, with a warning.
func TestScopesThatAreNotConfirmedAreWarnedOf(t *testing.T) {
	t.Parallel()
	for kind, begin := range scopedTypes {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			m := begin(t, simulator.WithoutSecretScopes())
			creds := m.mint("job")
			require.Contains(t, strings.Join(creds.Warnings, "\n"), "did not confirm that the OAuth secret is limited to the API scopes sql, jobs")
			require.Equal(t, []string{"sql", "jobs"}, creds.Data["scopes"])
			m.end(creds.Secret)
			require.Empty(t, m.scopedSecrets())
			m.write("roles/job", map[string]any{"scopes": "all-apis,sql"})
			require.Empty(t, m.mint("job").Warnings)
		})
	}
}

// TestASecretThatIsWiderThanAskedForIsRemoved at once, or by the rollback where that fails or the process dies first.
func TestASecretThatIsWiderThanAskedForIsRemoved(t *testing.T) {
	t.Parallel()
	for kind, begin := range scopedTypes {
		for name, row := range widening {
			if !row.refused {
				continue
			}
			t.Run(kind+", "+name, func(t *testing.T) {
				t.Parallel()
				m := begin(t, row.opt)
				words := []string{"also has the API scopes clusters", "only sql, jobs were asked for"}
				before := m.principals()
				resp, err := m.do(logical.ReadOperation, "creds/job", nil)
				m.coded(http.StatusBadGateway, resp, err, append(words, "removed again")...)
				require.Empty(t, m.scopedSecrets())
				require.Equal(t, before, m.principals())
				require.Empty(t, m.walEntries())
				require.Contains(t, m.log.String(), "a mint failed")

				fault := m.workspace.Inject(simulator.Fault{Method: http.MethodDelete, Status: 503})
				m.write("config", map[string]any{"max_retries": 0})
				resp, err = m.do(logical.ReadOperation, "creds/job", nil)
				m.coded(http.StatusBadGateway, resp, err, words...)
				require.Len(t, m.scopedSecrets(), 1)
				require.Len(t, m.walEntries(), 1)
				fault.Clear()
				m.restart()
				m.rolledBack()
				require.Empty(t, m.scopedSecrets())
				require.Equal(t, before, m.principals())
				require.Empty(t, m.walEntries())

				// Without scopes there is nothing to confirm, and with all of them nothing that is wider.
				for _, scopes := range []any{"", "all-apis,sql"} {
					m.write("roles/job", map[string]any{"scopes": scopes})
					m.end(m.mint("job").Secret)
				}
				resp, err = m.do(logical.UpdateOperation, "creds/job", map[string]any{"scopes": "sql"})
				m.coded(http.StatusBadGateway, resp, err, "sql", "removed again")
				require.Empty(t, m.scopedSecrets())
				require.Empty(t, m.walEntries())
			})
		}
	}
}

// TestAnswersShowTheScopesThatDatabricksSays, also where they are fewer than those that were asked for.
func TestAnswersShowTheScopesThatDatabricksSays(t *testing.T) {
	t.Parallel()
	for answered, want := range map[string][]string{`["jobs","sql"]`: {"jobs", "sql"}, `["sql"]`: {"sql"}} {
		m, sp := secretReady(t)
		id, _ := m.workspace.AddOAuthSecret(sp, time.Hour)
		body := `{"id":"` + id + `","secret":"dose-canary-0123456789","create_time":"2026-10-01T12:00:00Z","expire_time":"2099-10-01T13:00:00Z","scopes":` + answered + `}`
		m.workspace.Inject(simulator.Fault{Method: http.MethodPost, Path: secretsPath + "*", Body: body, Times: 1})
		require.Equal(t, want, m.mint("job").Data["scopes"])
	}
}

// TestAccessTokensOfServicePrincipalsNeedNoScopesOfSecrets: their secret stays with the engine, for seconds, and they have scopes themselves.
func TestAccessTokensOfServicePrincipalsNeedNoScopesOfSecrets(t *testing.T) {
	t.Parallel()
	for _, row := range widening {
		m, sp := tokenReady(t, row.opt)
		creds := m.mint("job")
		require.Equal(t, []string{"sql", "jobs"}, creds.Data["scopes"])
		require.Equal(t, []string{"sql", "jobs"}, m.workspace.Introspect(m.hidden(creds, "access_token")).Scopes)
		require.Empty(t, m.workspace.OAuthSecrets(sp))
		require.Empty(t, m.walEntries())
	}
}

// TestStaticSecretsKeepTheirScopes over rotations, and are not replaced by wider ones.
func TestStaticSecretsKeepTheirScopes(t *testing.T) {
	t.Parallel()
	role := func(m *mount, sp simulator.Principal) map[string]any {
		return map[string]any{"credential_type": "oauth_secret", "service_principal_id": sp.ID, "rotation_period": "24h", "rotation_grace_period": 0, "scopes": "sql,jobs"}
	}
	t.Run("the workspace knows them", func(t *testing.T) {
		t.Parallel()
		m, c := newTimedMount(t)
		m.connect()
		sp := m.workspace.AddServicePrincipal("bi", false)
		m.write("static-roles/bi", role(m, sp))
		for range 3 {
			require.Equal(t, [][]string{{"sql", "jobs"}}, m.scopedSecrets())
			require.Equal(t, []string{"sql", "jobs"}, textsOf(m.read("static-creds/bi").Data["scopes"]))
			c.advance(24 * time.Hour)
			m.tick()
		}
		m.write("static-roles/bi", map[string]any{"scopes": "sql"})
		require.Equal(t, [][]string{{"sql"}}, m.scopedSecrets())
	})
	for name, row := range widening {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m, _ := newTimedMount(t, row.opt)
			m.connect()
			sp := m.workspace.AddServicePrincipal("bi", false)
			data := role(m, sp)
			if !row.refused {
				m.write("static-roles/bi", data)
				require.Contains(t, m.log.String(), "did not confirm")
				return
			}
			resp, err := m.do(logical.UpdateOperation, "static-roles/bi", data)
			m.coded(http.StatusBadGateway, resp, err, "removed again")
			require.Empty(t, m.scopedSecrets())
			require.Nil(t, m.read("static-roles/bi"))

			// A role that is narrowed keeps what it has until a narrower one is made.
			delete(data, "scopes")
			m.write("static-roles/bi", data)
			id := m.read("static-roles/bi").Data["credential_id"]
			resp, err = m.do(logical.UpdateOperation, "static-roles/bi", map[string]any{"scopes": "sql"})
			m.coded(http.StatusBadGateway, resp, err, "removed again")
			require.Equal(t, id, m.read("static-roles/bi").Data["credential_id"])
			require.Len(t, m.scopedSecrets(), 1)
			require.Empty(t, m.walEntries())
		})
	}
}

// textsOf returns the strings of a list, which is of another type after it was stored.
func textsOf(list any) []string {
	var texts []string
	switch list := list.(type) {
	case []string:
		return list
	case []any:
		for _, text := range list {
			texts = append(texts, text.(string))
		}
	}
	return texts
}

// TestTheEnginesOwnSecretKeepsItsScopes over rotations: a rotation must not give the engine more than the operator did.
func TestTheEnginesOwnSecretKeepsItsScopes(t *testing.T) {
	t.Parallel()
	scopes := []string{"authentication", "scim", "secrets"}
	connect := func(t *testing.T, own []string, opts ...simulator.Option) (*rootMount, simulator.Principal) {
		m, c := newTimedMount(t, append(opts, simulator.WithScopesCut())...)
		m.holdTidy()
		engine := m.workspace.AddServicePrincipal("engine", true)
		id, secret := m.workspace.AddOAuthSecret(engine, 0, own...)
		m.write("config", map[string]any{"host": m.workspace.URL(), "client_id": engine.ApplicationID, "client_secret": m.unlogged(secret), "max_retries": 0})
		m.write("roles/own", map[string]any{"credential_type": "oauth_token"})
		return &rootMount{mount: m, clock: c, kind: "oauth-m2m", engine: engine, own: id, byHand: []string{id}}, engine
	}
	last := func(r *rootMount) simulator.OAuthSecret {
		all := r.workspace.OAuthSecrets(r.engine)
		return all[len(all)-1]
	}

	t.Run("it is the only one", func(t *testing.T) {
		t.Parallel()
		r, _ := connect(t, scopes)
		for range 3 {
			resp := r.rotate()
			require.Equal(t, resp.Data["credential_id"], last(r).ID)
			require.Equal(t, scopes, last(r).Scopes)
			r.pass(10*time.Minute, 5*time.Minute)
			r.sound()
		}
	})
	t.Run("it has none", func(t *testing.T) {
		t.Parallel()
		r, _ := connect(t, nil)
		r.workspace.ResetCalls()
		r.rotate()
		require.Empty(t, last(r).Scopes)
		require.Equal(t, 1, r.workspace.Count(http.MethodPost, secretsPath+"*"))
		for i, call := range r.workspace.Calls() {
			if call.Method == http.MethodPost && strings.HasSuffix(call.Path, "/credentials/secrets") {
				require.NotContains(t, r.body(i), "scopes")
			}
		}
	})
	t.Run("the scopes of one that a rotation made are remembered", func(t *testing.T) {
		t.Parallel()
		r, _ := connect(t, scopes)
		r.rotate()
		require.Equal(t, scopes, r.stored().Rotation.Credential.Scopes)
		r.workspace.Inject(simulator.Fault{Method: http.MethodGet, Path: secretsPath + "*", Body: "{}", Times: 1})
		r.rotate()
		require.Equal(t, scopes, last(r).Scopes)
	})
	t.Run("it can't be told from others", func(t *testing.T) {
		t.Parallel()
		r, engine := connect(t, scopes)
		id, _ := r.workspace.AddOAuthSecret(engine, 0, slices.Clone(scopes)...)
		r.byHand = append(r.byHand, id)
		resp := r.rotate()
		require.Contains(t, warnings(resp), "can't be told from the others")
		require.Equal(t, scopes, last(r).Scopes, "all have the same")

		r, engine = connect(t, scopes)
		r.workspace.AddOAuthSecret(engine, 0, "scim")
		resp = r.rotate()
		require.Contains(t, warnings(resp), "different API scopes")
		require.Contains(t, warnings(resp), "not limited to any")
		require.Empty(t, last(r).Scopes)
	})
	for name, row := range map[string]simulator.Option{"ignored": simulator.WithoutSecretScopes(), "added": simulator.WithAddedSecretScopes("clusters")} {
		t.Run("the new one's are "+name, func(t *testing.T) {
			t.Parallel()
			r, _ := connect(t, scopes, row)
			resp, err := r.tryRotate()
			r.coded(http.StatusBadGateway, resp, err, strings.Join(scopes, ", "), "removed again")
			require.Equal(t, r.own, last(r).ID)
			require.Len(t, r.live(), 1)
			r.sound()
		})
	}
	t.Run("all that is asked for is refused", func(t *testing.T) {
		t.Parallel()
		m := newMount(t)
		engine := m.workspace.AddServicePrincipal("engine", true)
		_, secret := m.workspace.AddOAuthSecret(engine, 0, scopes...)
		resp, err := m.do(logical.UpdateOperation, "config", map[string]any{"host": m.workspace.URL(), "client_id": engine.ApplicationID, "client_secret": m.unlogged(secret)})
		m.refused(resp, err, "invalid_scope")
	})
}

// TestAnAccessTokenThatIsWiderThanAskedForIsNotHandedOut shows the same of access tokens, which nobody can remove.
func TestAnAccessTokenThatIsWiderThanAskedForIsNotHandedOut(t *testing.T) {
	t.Parallel()
	m, engine := m2mReady(t)
	m.workspace.AddGroup("analysts", engine)
	job := m.workspace.AddServicePrincipal("job", false)
	m.write("roles/own", map[string]any{"credential_type": "oauth_token", "scopes": "sql,jobs"})
	m.write("roles/group", map[string]any{"credential_type": "oauth_token", "scopes": "sql,jobs", "assume_group": "analysts"})
	m.write("roles/job", map[string]any{"credential_type": "oauth_token", "scopes": "sql,jobs", "application_id": job.ApplicationID})
	answer := func(scopes string) {
		m.workspace.ClearFaults()
		m.workspace.Inject(simulator.Fault{Path: grantPath, Body: `{"access_token":"` + m.unlogged("granted-access-token") + `","token_type":"Bearer","expires_in":3600` + scopes + `}`})
	}
	for _, role := range []string{"own", "group", "job"} {
		for _, scopes := range []string{"sql jobs clusters", "all-apis", "sql all-apis"} {
			answer(`,"scope":"` + scopes + `"`)
			resp, err := m.do(logical.ReadOperation, "creds/"+role, nil)
			m.coded(http.StatusBadGateway, resp, err, "the new access token is not handed out", "although only sql, jobs were asked for", "ends by itself")
			require.Empty(t, m.workspace.OAuthSecrets(job))
			require.Empty(t, m.walEntries())
		}

		// What it lacks of what was asked for is no reason to refuse, and the answer shows it.
		answer(`,"scope":"jobs"`)
		creds := m.mint(role)
		require.Equal(t, []string{"jobs"}, creds.Data["scopes"])

		// Roles of v0.1.0 go on where the answer doesn't tell.
		answer("")
		creds = m.mint(role)
		require.Equal(t, []string{"sql", "jobs"}, creds.Data["scopes"])
		require.Contains(t, strings.Join(creds.Warnings, "\n"), "did not confirm that the access token is limited to the API scopes sql, jobs")
		m.write("roles/"+role, map[string]any{"scopes": ""})
		creds = m.mint(role)
		require.Equal(t, []string{"all-apis"}, creds.Data["scopes"])
		require.NotContains(t, strings.Join(creds.Warnings, "\n"), "confirm")
		answer(`,"scope":"sql clusters"`)
		require.Equal(t, []string{"sql", "clusters"}, m.mint(role).Data["scopes"], "nothing is wider than all")
	}
}

// Personal access tokens are treated as OAuth secrets are.
func TestATokenThatIsWiderThanAskedForIsRemoved(t *testing.T) {
	t.Parallel()
	m := ready(t)
	sp := m.workspace.AddServicePrincipal("job", false)
	m.workspace.SetTokenPermission(sp, true)
	m.write("roles/pat", map[string]any{"credential_type": "pat", "scopes": "sql,jobs", "max_ttl": "1h"})
	m.write("roles/obo", map[string]any{"credential_type": "obo_token", "service_principal_id": sp.ID, "scopes": "sql,jobs", "max_ttl": "1h"})
	for role, path := range map[string]string{"pat": createPath, "obo": oboPath} {
		answer := func(scopes string) {
			body := fmt.Sprintf(`{"token_value":"dapi-canary-0123456789","token_info":{"token_id":"t1","comment":"c","creation_time":%d,"expiry_time":%d%s}}`, time.Now().UnixMilli(), time.Now().Add(61*time.Minute).UnixMilli(), scopes)
			m.workspace.Inject(simulator.Fault{Method: http.MethodPost, Path: path, Body: body, Times: 1})
		}
		require.Empty(t, m.mint(role).Warnings)
		answer(`,"scopes":["sql","clusters"]`)
		m.workspace.ResetCalls()
		resp, err := m.do(logical.ReadOperation, "creds/"+role, nil)
		m.coded(http.StatusBadGateway, resp, err, "also has the API scopes clusters", "removed again")
		require.Len(t, m.requests(), 2, "the create and a delete: %v", m.requests())
		require.Empty(t, m.walEntries())
		answer("")
		require.Contains(t, strings.Join(m.mint(role).Warnings, "\n"), "did not confirm that the token is limited to the API scopes sql, jobs")
	}
}
