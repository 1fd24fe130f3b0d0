// SPDX-License-Identifier: MPL-2.0

package databricks

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-databricks/internal/simulator"
)

// denial is a refusal of whoever calls, which says nothing about the credential.
type denial struct {
	fault func(*simulator.Workspace) simulator.Fault
	words []string
}

var denials = map[string]denial{
	"address": {func(w *simulator.Workspace) simulator.Fault { return w.BlockedAddress("203.0.113.7") }, []string{"does not admit calls from this network", "203.0.113.7 is blocked by Databricks IP ACL", "IP access list"}},
	"network": {(*simulator.Workspace).BlockedNetwork, []string{"does not admit calls from this network", "Unauthorized network access", "network policy"}},
	"foreign": {(*simulator.Workspace).ForeignOrg, []string{"does not let this identity into the workspace", "Invalid access to Org", "check that host is the workspace"}},
}

// aboutTheCredential are words that would send the user to replace a good credential, or to give it rights.
var aboutTheCredential = []string{"does not accept", "has not expired", "check client_id", "workspace admin", "needs ", "federation policy"}

// denied requires the refusal of one request, in the words of the denial and in none about the credential.
func (m *mount) denied(d denial, resp *logical.Response, err error) {
	m.t.Helper()
	m.refused(resp, err, d.words...)
	text := m.failure(resp, err).Error()
	for _, word := range aboutTheCredential {
		require.NotContains(m.t, text, word)
	}
}

// TestDenialsAreNotTakenForABadCredential goes through the auth types that reach Databricks in different ways, and through config writes, mints,
// secrets, permissions, revocations and a rotation that verifies its new credential.
func TestDenialsAreNotTakenForABadCredential(t *testing.T) {
	t.Parallel()
	for name, d := range denials {
		for _, authType := range []string{"pat", "oauth-m2m"} {
			t.Run(name+" "+authType, func(t *testing.T) {
				t.Parallel()
				m := withScope(t)
				config := map[string]any{"token": m.token}
				paths := []string{"/api/*"}
				if authType == "oauth-m2m" {
					sp := m.workspace.AddServicePrincipal("engine", true)
					_, secret := m.workspace.AddOAuthSecret(sp, day)
					config = map[string]any{"client_id": sp.ApplicationID, "client_secret": m.unlogged(secret)}
					paths = append(paths, "/oidc/*")
				}
				config["max_retries"] = 0
				m.write("config", config)
				lease := m.mint("etl").Secret
				before := m.read("config").Data
				for _, path := range paths {
					fault := d.fault(m.workspace)
					fault.Path = path
					injected := m.workspace.Inject(fault)
					resp, err := m.do(logical.UpdateOperation, "config", map[string]any{"ttl": "1m"})
					m.denied(d, resp, err)
					require.ErrorContains(t, m.failure(resp, err), "nothing was stored")
					require.Equal(t, name != "foreign", strings.Contains(m.failure(resp, err).Error(), "verify_connection=false"), "it helps where only the network has to change")
					require.Equal(t, before, m.read("config").Data)
					m.restart()
					for path, op := range map[string]logical.Operation{
						"creds/etl": logical.ReadOperation, "tokens": logical.ListOperation, "secrets/etl/key": logical.ReadOperation, "acls/etl": logical.ListOperation,
					} {
						resp, err := m.do(op, path, nil)
						m.denied(d, resp, err)
					}
					resp, err = m.do(logical.UpdateOperation, "secrets/etl", map[string]any{"secrets": map[string]any{"a": "value-one", "b": "value-two"}})
					m.denied(d, resp, err)
					resp, err = m.do(logical.UpdateOperation, "config/rotate-root", nil)
					m.denied(d, resp, err)
					resp, err = m.revoke(lease)
					m.denied(d, resp, err)
					injected.Clear()
				}
				m.end(lease)
				require.Empty(t, m.minted())
				require.Empty(t, m.walEntries())

				// What a rotation made is taken back where it can't be verified, and the error doesn't call it bad.
				fault := d.fault(m.workspace)
				fault.Path = "/api/2.0/preview/scim/v2/Me"
				injected := m.workspace.Inject(fault)
				resp, err := m.do(logical.UpdateOperation, "config/rotate-root", nil)
				m.denied(d, resp, err)
				require.ErrorContains(t, m.failure(resp, err), "the new credential could not be verified, so it is removed")
				injected.Clear()
				require.Empty(t, m.minted())
				require.Equal(t, before, m.read("config").Data)
			})
		}
	}
}

func TestStatusShowsTheDenialOfARotation(t *testing.T) {
	t.Parallel()
	for name, d := range denials {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m, c := newTimedMount(t)
			m.connect(map[string]any{"rotation_period": "24h"})
			fault := d.fault(m.workspace)
			fault.Path = "/api/*"
			m.workspace.Inject(fault)
			c.advance(25 * time.Hour)
			_, _ = m.rollback()
			status := m.read("status").Data
			require.EqualValues(t, 1, status["rotation_failures"])
			for _, word := range d.words {
				require.Contains(t, status["last_rotation_error"], word)
			}
			for _, word := range aboutTheCredential {
				require.NotContains(t, status["last_rotation_error"], word)
			}
		})
	}
}

// TestAuthenticationThatIsDownForGood: a 503 that lasts, such as a workspace gives to tokens of a kind that it doesn't take, ends the retries,
// and says what it may mean.
func TestAuthenticationThatIsDownForGood(t *testing.T) {
	t.Parallel()
	for kind, config := range map[string]func(m *mount) map[string]any{
		simulator.KindPAT: func(m *mount) map[string]any { return map[string]any{"host": m.workspace.URL(), "token": m.token} },
		simulator.KindOAuth: func(m *mount) map[string]any {
			sp := m.workspace.AddServicePrincipal("engine", true)
			_, secret := m.workspace.AddOAuthSecret(sp, day)
			return map[string]any{"host": m.workspace.URL(), "client_id": sp.ApplicationID, "client_secret": m.unlogged(secret)}
		},
		simulator.KindEntra: func(m *mount) map[string]any { return m.azureConfig(m.workspace.AddServicePrincipal("engine", true)) },
	} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			m := newMount(t, simulator.WithCloud("azure"), simulator.WithAuthenticationDown(kind))
			data := config(m)
			data["max_retries"] = 2
			resp, err := m.do(logical.UpdateOperation, "config", data)
			m.coded(http.StatusBadGateway, resp, err, "nothing was stored", "TEMPORARILY_UNAVAILABLE", "Authentication is temporarily unavailable", "use another auth_type")
			require.Equal(t, 3, m.workspace.Count("", mePath))
			require.Nil(t, m.absent("config"))
		})
	}
}

// TestWhichOfTwoIsWrongIsLeftOpen: Databricks refuses a wrong client_id as it refuses a wrong client_secret.
func TestWhichOfTwoIsWrongIsLeftOpen(t *testing.T) {
	t.Parallel()
	m := newMount(t)
	sp := m.workspace.AddServicePrincipal("engine", true)
	_, secret := m.workspace.AddOAuthSecret(sp, day)
	for _, wrong := range []map[string]any{
		{"client_id": unknownUUID, "client_secret": m.unlogged(secret)}, {"client_id": sp.ApplicationID, "client_secret": "dose0000000000000000"},
	} {
		wrong["host"] = m.workspace.URL()
		resp, err := m.do(logical.UpdateOperation, "config", wrong)
		m.refused(resp, err, "client_secret: ", "together with client_id", "which of the two is wrong", "invalid_client")
	}
}

// TestAnIssuedTokenClearsTheCredential has a workspace that refuses what the token endpoint has just issued, for each auth type.
func TestAnIssuedTokenClearsTheCredential(t *testing.T) {
	refused := func(t *testing.T, m *mount, config map[string]any) {
		t.Helper()
		for _, fault := range []simulator.Fault{
			{Status: http.StatusUnauthorized}, {Status: http.StatusForbidden, Body: `{"error_code":403,"message":"Invalid access token."}`},
		} {
			fault.Path = mePath
			injected := m.workspace.Inject(fault)
			resp, err := m.do(logical.UpdateOperation, "config", config)
			m.refused(resp, err, "host: an access token was issued, but the workspace at "+m.workspace.URL()+" refuses it, so nothing was stored", "the identity has been added there")
			for _, word := range []string{"secret: ", "audience", "auth_type: ", "has not expired", "refused the credential"} {
				require.NotContains(t, resp.Error().Error(), word)
			}
			require.Nil(t, m.absent("config"))
			injected.Clear()
		}
		m.write("config", config)
		m.write("roles/own", map[string]any{"credential_type": "pat"})
		m.restart()
		m.workspace.Inject(simulator.Fault{Path: createPath, Status: http.StatusUnauthorized})
		resp, err := m.do(logical.ReadOperation, "creds/own", nil)
		m.refused(resp, err, "an access token was issued, so the credential in the config is good")
	}
	t.Run("azure-client-secret", func(t *testing.T) {
		m := newMount(t, simulator.WithCloud("azure"))
		refused(t, m, m.azureConfig(m.workspace.AddServicePrincipal("engine", true)))
	})
	t.Run("oauth-m2m", func(t *testing.T) {
		m := newMount(t)
		sp := m.workspace.AddServicePrincipal("engine", true)
		_, secret := m.workspace.AddOAuthSecret(sp, day)
		refused(t, m, map[string]any{"host": m.workspace.URL(), "client_id": sp.ApplicationID, "client_secret": m.unlogged(secret)})
	})
	t.Run("oidc with a file", func(t *testing.T) {
		m, engine, sign := federated(t, "RS256")
		tokenFileOf(t, sign(nil))
		refused(t, m, map[string]any{"host": m.workspace.URL(), "auth_type": "oidc", "client_id": engine.ApplicationID})
	})
	t.Run("oidc without a file", func(t *testing.T) {
		t.Setenv("DATABRICKS_OIDC_TOKEN_FILEPATH", "")
		m, engine, sign := federated(t, "RS256")
		m.host = &enterprise{StaticSystemView: m.system, sign: sign}
		m.restart()
		refused(t, m, map[string]any{"host": m.workspace.URL(), "client_id": engine.ApplicationID, "identity_token_audience": testAudience})
	})
	t.Run("a token is refused itself", func(t *testing.T) {
		m := newMount(t)
		m.workspace.Inject(simulator.Fault{Path: mePath, Status: http.StatusUnauthorized})
		resp, err := m.do(logical.UpdateOperation, "config", map[string]any{"host": m.workspace.URL(), "token": m.token})
		m.refused(resp, err, "token: Databricks does not accept it")
	})
}

// TestUnknownErrorsOfEntraBlameTheSecretOnlyForTheClient: invalid_client is about the client's credential, other errors are not.
func TestUnknownErrorsOfEntraBlameTheSecretOnlyForTheClient(t *testing.T) {
	t.Parallel()
	m := newMount(t, simulator.WithCloud("azure"))
	config := m.azureConfig(m.workspace.AddServicePrincipal("engine", true))
	for answer, field := range map[string]string{
		`{"error":"invalid_client","error_description":"AADSTS7000299: no"}`:                                       "azure_client_secret: Entra ID does not accept it",
		`{"error":"unauthorized_client","error_description":"AADSTS7000299: no"}`:                                  "auth_type: Entra ID gives no access token, and does not say which field is wrong",
		`{"error":"invalid_grant","error_description":"AADSTS7000299: no"}`:                                        "auth_type: Entra ID gives no access token",
		`{"error":"unauthorized_client","error_description":"AADSTS7000229: missing service principal in tenant"}`: "azure_client_id: Entra ID does not accept it",
		`{"error":"invalid_resource","error_description":"AADSTS500014: disabled"}`:                                "Azure Databricks is disabled in the tenant",
	} {
		m.workspace.Inject(simulator.Fault{Path: "/" + testTenant + "/oauth2/token", Status: http.StatusBadRequest, Body: answer, Times: 1})
		resp, err := m.do(logical.UpdateOperation, "config", config)
		m.refused(resp, err, field, "nothing was stored")
		require.Equal(t, strings.HasPrefix(field, "azure_client_secret"), strings.Contains(resp.Error().Error(), "azure_client_secret: "))
	}
}
