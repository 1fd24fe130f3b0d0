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

// logged returns the lines of the log that have all the words.
func (m *mount) logged(words ...string) []string {
	var found []string
	for line := range strings.Lines(m.log.String()) {
		all := true
		for _, word := range words {
			all = all && strings.Contains(line, word)
		}
		if all {
			found = append(found, line)
		}
	}
	return found
}

// TestStatusAndLogTellWhyMintsFail shows what an operator finds who looks for the reason.
func TestStatusAndLogTellWhyMintsFail(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		opts   []simulator.Option
		breaks func(m *mount)
		words  []string
	}{
		"the quota is full":              {[]simulator.Option{simulator.WithTokenQuota(1)}, func(*mount) {}, []string{"token/create", "QUOTA_EXCEEDED", "HTTP 400"}},
		"the engine's token was deleted": {nil, func(m *mount) { m.workspace.RevokeToken(storedTokenID(m)) }, []string{"token/create", "HTTP 403"}},
		"Databricks is down": {nil, func(m *mount) {
			m.workspace.Inject(simulator.Fault{Path: createPath, Status: 503, ErrorCode: "TEMPORARILY_UNAVAILABLE"})
		}, []string{"token/create", "TEMPORARILY_UNAVAILABLE", "HTTP 503"}},
		"Databricks can't be reached": {nil, func(m *mount) { m.workspace.Close() }, []string{"token/create", "connect"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := ready(t, test.opts...)
			m.write("config", map[string]any{"max_retries": 0})
			test.breaks(m)
			for range 3 {
				resp, err := m.do(logical.ReadOperation, "creds/etl", nil)
				require.True(t, err != nil || resp.IsError(), "%v", resp)
			}
			require.Len(t, m.logged(append(test.words, "[WARN]", "a mint failed", "path=creds/etl", "request_id=11111111-")...), 3, "one line each")

			check := func() time.Time {
				t.Helper()
				status := m.read("status").Data
				for _, word := range test.words {
					require.Contains(t, status["last_error"], word)
				}
				require.EqualValues(t, 3, status["calls"].(map[string]any)["token/create"].(map[string]any)["errors"])
				return m.moment(status["last_error_time"])
			}
			at := check()
			require.WithinDuration(t, time.Now(), at, time.Minute)
			// What is refused without a call says nothing of Databricks.
			lines := len(m.logged("[WARN]"))
			for path, data := range map[string]map[string]any{
				"creds/none": nil, "creds/etl": {"ttl": "-1"}, "tokens/a.b": nil, "roles/x": {"credential_type": "y"}, "rotate-role/none": nil,
			} {
				resp, err := m.do(logical.UpdateOperation, path, data)
				require.True(t, err != nil || resp.IsError(), path)
			}
			require.Equal(t, at, check())
			require.Len(t, m.logged("[WARN]"), lines)
		})
	}
}

func storedTokenID(m *mount) string {
	for _, token := range m.workspace.Tokens() {
		if token.Comment == "the engine's own" {
			return token.ID
		}
	}
	return ""
}

// TestFailedRotationsByHandAndRenewalsAreLogged shows one line each, with the reason.
func TestFailedRotationsByHandAndRenewalsAreLogged(t *testing.T) {
	t.Parallel()
	m := ready(t)
	m.write("config", map[string]any{"max_retries": 0})
	m.write("static-roles/bi", map[string]any{"credential_type": "pat"})
	creds := m.mint("etl")
	m.workspace.Inject(simulator.Fault{Path: createPath, Status: http.StatusInternalServerError})
	for _, path := range []string{"config/rotate-root", "rotate-role/bi"} {
		resp, err := m.do(logical.UpdateOperation, path, nil)
		m.coded(http.StatusBadGateway, resp, err)
		require.Len(t, m.logged("[WARN]", "a rotation by hand failed", "path="+path, "HTTP 500"), 1)
	}
	resp, err := m.do(logical.DeleteOperation, "roles/etl", nil)
	m.requireOK(resp, err)
	resp, err = m.leaseRequest(logical.RenewOperation, creds.Secret)
	m.refused(resp, err, "was deleted")
	require.Len(t, m.logged("[WARN]", "a renewal failed", "path=creds/etl", "was deleted"), 1)
	resp, err = m.do(logical.DeleteOperation, "config", map[string]any{"force": true})
	m.requireOK(resp, err)
	resp, err = m.do(logical.ReadOperation, "creds/etl", nil)
	m.refused(resp, err, "role")
	require.Empty(t, m.logged("a mint failed"), "that the role does not exist is the caller's mistake")
}

// TestAbsenceIsNoFailure shows that a "not found" counts as an answer where something is looked for or deleted, and as a failure where
// something was to be made.
func TestAbsenceIsNoFailure(t *testing.T) {
	t.Parallel()
	m := ready(t)
	for range 2 {
		for _, path := range []string{"tokens/x", "secrets/etl/k", "scopes/etl", "acls/etl/users"} {
			resp, err := m.do(logical.DeleteOperation, path, nil)
			m.requireOK(resp, err)
			_, err = m.do(logical.ReadOperation, path, nil)
			require.NoError(t, err)
		}
	}
	creds := m.mint("etl")
	for range 2 {
		resp, err := m.revoke(creds.Secret)
		m.requireOK(resp, err)
	}
	status := m.read("status").Data
	require.Empty(t, status["last_error"])
	require.Nil(t, status["last_error_time"])
	require.Zero(t, status["calls_failed"])
	require.NotZero(t, status["calls_total"])
	for op, n := range status["calls"].(map[string]any) {
		require.Zero(t, n.(map[string]any)["errors"], op)
	}

	resp, err := m.do(logical.UpdateOperation, "secrets/none/k", map[string]any{"string_value": "v"})
	m.refused(resp, err, "none")
	status = m.read("status").Data
	require.Contains(t, status["last_error"], "secrets/put: ")
	require.EqualValues(t, 1, status["calls_failed"])
}

// TestStatusSummary shows that Vault's CLI, which prints a map on one line, can print the status.
func TestStatusSummary(t *testing.T) {
	t.Parallel()
	m := newMount(t)
	summary := func() (summary, all map[string]any) {
		t.Helper()
		resp, err := m.do(logical.ReadOperation, "status", map[string]any{"summary": true})
		m.requireOK(resp, err)
		for field, value := range resp.Data {
			require.NotContains(t, []any{"identity", "calls", "credentials", "reasons", "ends_soon"}, field)
			switch value.(type) {
			case nil, string, bool, int, int64, float64:
			default:
				require.Fail(t, "not flat", "%s: %T", field, value)
			}
		}
		return resp.Data, m.read("status").Data
	}
	summary()

	m.connect(map[string]any{"verify_connection": false})
	flat, all := summary()
	require.Nil(t, all["identity"])
	for _, field := range []string{"user_id", "user_name", "user_display_name", "service_principal", "admin", "verified_time", "last_success_time", "last_vault_rotation_time"} {
		require.Contains(t, flat, field)
		require.Nil(t, flat[field], field)
	}

	m.connect(map[string]any{"rotation_period": "24h", "verify_connection": true})
	flat, all = summary()
	who := all["identity"].(map[string]any)
	for field, of := range map[string]string{"user_id": "id", "user_name": "user_name", "user_display_name": "display_name", "service_principal": "service_principal", "admin": "admin"} {
		require.Equal(t, who[of], flat[field], field)
	}
	for _, field := range []string{keyLastRotation, keyNextRotation, keyRotationRetry, keyPendingAttempt} {
		require.Equal(t, flat[field], flat[field+timeSuffix], field)
	}
	require.NotNil(t, flat["next_vault_rotation_time"])
}
