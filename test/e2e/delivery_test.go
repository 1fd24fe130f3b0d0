// SPDX-License-Identifier: MPL-2.0

//go:build e2e

package e2e

import (
	"fmt"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-databricks/internal/simulator"
)

// deliver mints a token into secrets/etl/token, and answers the lease and the token that is there.
func (m *mount) deliver(body data) (secret *api.Secret, token string) {
	m.t.Helper()
	body["deliver_scope"], body["deliver_key"] = "etl", "token"
	secret = m.write("creds/etl", body)
	token, ok := m.value("etl", "token")
	require.True(m.t, ok, "nothing was delivered")
	return secret, server.secret(token, "a delivered token")
}

func TestDeliveredTokenIsInTheScopeAndNotInTheAnswer(t *testing.T) {
	t.Parallel()
	m := withScope(t)
	secret, token := m.deliver(data{"ttl": "10m"})
	require.True(t, m.works(token), "the scope holds exactly the token")
	require.Equal(t, "etl", secret.Data["deliver_scope"])
	require.Equal(t, "token", secret.Data["deliver_key"])
	require.NotContains(t, secret.Data, "token_value")
	require.NotContains(t, fmt.Sprint(secret), token)
	require.Equal(t, 600, secret.LeaseDuration)
	upstream, live := m.upstream(tokenIDOf(secret))
	require.True(t, live)
	require.Equal(t, upstream.Comment, secret.Data["comment"])

	m.revoke(secret)
	require.False(t, m.works(token))
	require.Empty(t, m.stored("etl"), "revoking removes both")
	require.Empty(t, m.minted())
}

func TestDeliveredTokenEndsWithItsLease(t *testing.T) {
	t.Parallel()
	m := withScope(t)
	_, token := m.deliver(data{"ttl": "2s"})
	require.Eventually(t, func() bool { return !m.works(token) && len(m.stored("etl")) == 0 }, patience, 100*time.Millisecond)
}

func TestDeliveredKeyThatWasOverwrittenIsLeftAlone(t *testing.T) {
	t.Parallel()
	m := withScope(t)
	first, old := m.deliver(data{})
	second, current := m.deliver(data{})
	require.NotEqual(t, old, current)
	m.revoke(first)
	require.False(t, m.works(old))
	require.True(t, m.works(current))
	require.Equal(t, map[string]any{"token": current}, m.stored("etl"), "the next token has taken its place")
	m.workspace.PutSecret("etl", "token", []byte("by somebody else"))
	m.revoke(second)
	require.False(t, m.works(current))
	require.Equal(t, map[string]any{"token": "by somebody else"}, m.stored("etl"))
}

func TestFailedDeliveryLeavesNoCredential(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		fault  simulator.Fault
		scope  string
		status int
		part   string
	}{
		"no scope":   {simulator.Fault{}, "absent", 400, "RESOURCE_DOES_NOT_EXIST"},
		"refused":    {simulator.Fault{Path: "/api/2.0/secrets/put", Status: 403, ErrorCode: "PERMISSION_DENIED"}, "etl", 400, "needs WRITE"},
		"lost reply": {simulator.Fault{Path: "/api/2.0/secrets/put", AfterEffect: true, Reset: true}, "etl", 502, "could not be delivered"},
		"not listed": {simulator.Fault{Path: "/api/2.0/secrets/list", Offset: 1, Status: 403, ErrorCode: "PERMISSION_DENIED", Times: 1}, "etl", 400, "needs READ"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := withScope(t)
			m.write("config", data{"max_retries": 0})
			if tt.fault.Path != "" {
				m.workspace.Inject(tt.fault)
			}
			_, err := m.tryWrite("creds/etl", data{"deliver_scope": tt.scope, "deliver_key": "token"})
			requireRefused(t, err, tt.status, tt.part)
			require.Empty(t, m.minted(), "the credential is gone")
			require.Empty(t, m.stored("etl"), "and so is what was delivered of it")
		})
	}
}

func TestDeliveryNeedsScopeAndKey(t *testing.T) {
	t.Parallel()
	m := withScope(t)
	m.workspace.ResetCalls()
	for part, body := range map[string]data{
		"deliver_key: is missing":   {"deliver_scope": "etl"},
		"deliver_scope: is missing": {"deliver_key": "token"},
		"deliver_key: \"a b\"":      {"deliver_scope": "etl", "deliver_key": "a b"},
		"deliver_scope: \"a/b\"":    {"deliver_scope": "a/b", "deliver_key": "token"},
	} {
		_, err := m.tryWrite("creds/etl", body)
		requireRefused(t, err, 400, part)
	}
	require.Zero(t, m.workspace.Count("", "*"))
}

// TestReadDeliversNothing: a policy that allows reads of creds/<role> only must not let its holder overwrite secrets.
func TestReadDeliversNothing(t *testing.T) {
	t.Parallel()
	m := withScope(t)
	reader := m.loginWith(fmt.Sprintf(`path "%s/creds/etl" { capabilities = ["read"] }`, m.path))
	_, err := reader.Logical().ReadWithData(m.path+"/creds/etl", map[string][]string{"deliver_scope": {"etl"}, "deliver_key": {"token"}})
	require.Error(t, err)
	require.Empty(t, m.stored("etl"))
	require.Empty(t, m.minted())
}

// TestDeliveryToAKeyWithSlashes lets the next token take the place of the first in another case of the key.
func TestDeliveryToAKeyWithSlashes(t *testing.T) {
	t.Parallel()
	m := withScope(t)
	first := m.write("creds/etl", data{"deliver_scope": "etl", "deliver_key": "jobs/etl/token"})
	old, _ := m.value("etl", "jobs/etl/token")
	require.True(t, m.works(server.secret(old, "a delivered token")))
	m.write("creds/etl", data{"deliver_scope": "etl", "deliver_key": "Jobs/ETL/token"})
	m.revoke(first)
	current, _ := m.value("etl", "jobs/etl/token")
	require.True(t, m.works(server.secret(current, "a delivered token")), "the next token has taken its place")
	require.Len(t, m.stored("etl"), 1)

	role := data{"credential_type": "pat", "rotation_period": "24h", "deliver_scope": "etl", "deliver_key": "jobs/static"}
	m.write("static-roles/bi", role)
	role["deliver_key"] = "Jobs/Static"
	_, err := m.tryWrite("static-roles/other", role)
	requireRefused(t, err, 400, "deliver_key: ", `static role "bi" delivers to`)
	shared := m.creds("bi").secret
	stored, _ := m.value("etl", "jobs/static")
	require.Equal(t, shared, stored)
}
