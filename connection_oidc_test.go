// SPDX-License-Identifier: MPL-2.0

package databricks

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-databricks/internal/simulator"
)

func TestTokenHosts(t *testing.T) {
	const listed = "adb-1.7.azuredatabricks.net, HTTPS://DBC-1.cloud.databricks.com:443/ ,https://x.example.com:8443,, *.evil.example.com, trailing.example.com."
	t.Setenv("DATABRICKS_OIDC_TOKEN_HOSTS", listed)
	for host, allowed := range map[string]bool{
		"https://adb-1.7.azuredatabricks.net":      true,
		"https://dbc-1.cloud.databricks.com":       true,
		"https://x.example.com:8443":               true,
		"https://x.example.com":                    false,
		"https://adb-1.7.azuredatabricks.net:8443": false,
		"https://adb-11.7.azuredatabricks.net":     false,
		"https://a.adb-1.7.azuredatabricks.net":    false,
		"https://azuredatabricks.net":              false,
		"https://a.evil.example.com":               false,
		"https://trailing.example.com":             false,
		"https://0.0.0.0":                          false,
		"https://[::]":                             false,
		"https://localhost.example.com":            false,
		"https://127.0.0.1.example.com":            false,
		"http://127.0.0.1:1":                       true,
		"https://127.7.7.7":                        true,
		"http://localhost:80":                      true,
		"https://[::1]:443":                        true,
	} {
		require.Equal(t, allowed, checkTokenHost(host) == nil, host)
	}
	t.Setenv("DATABRICKS_OIDC_TOKEN_HOSTS", "*.azuredatabricks.net")
	require.ErrorContains(t, checkTokenHost("https://adb-1.7.azuredatabricks.net"), "its entry 1 is not a host")
}

// TestTheListOfTokenHostsIsNotShown: who may write a config is not who registered the plugin.
func TestTheListOfTokenHostsIsNotShown(t *testing.T) {
	t.Setenv("DATABRICKS_OIDC_TOKEN_HOSTS", "https://user:hunter2@a.example.com,, b.example.com,c.example.com/?token=hunter3")
	tokenFileOf(t, "a.b.c")
	m := newMount(t)
	resp, err := m.do(logical.UpdateOperation, "config", map[string]any{"host": "https://d.example.com", "auth_type": "oidc", "client_id": "x"})
	m.refused(resp, err, "host: ", "d.example.com is not one of them", "register the plugin with d.example.com added", "entry 1 is not a host", "entry 4 is not a host")
	for _, word := range []string{"hunter", "user", "a.example.com", "b.example.com", "c.example.com"} {
		require.NotContains(t, resp.Error().Error(), word)
	}
	require.NotContains(t, m.log.String(), "hunter")
}

// trap is a port that counts its connections. Its address is not a loopback one, though it is reached without any network.
func trap(t *testing.T) (host string, connections *atomic.Int64) {
	t.Helper()
	listener, err := net.Listen("tcp", "0.0.0.0:0")
	require.NoError(t, err)
	connections = new(atomic.Int64)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			connections.Add(1)
			_ = conn.Close()
		}
	}()
	t.Cleanup(func() { _ = listener.Close(); <-done })
	return fmt.Sprintf("https://0.0.0.0:%d", listener.Addr().(*net.TCPAddr).Port), connections
}

// tokenFileOf sets up a token file, and returns its path.
func tokenFileOf(t *testing.T, content string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "token")
	require.NoError(t, os.WriteFile(file, []byte(content), 0o600))
	t.Setenv("DATABRICKS_OIDC_TOKEN_FILEPATH", file)
	return file
}

// TestTokenFileIsNotSentToAHostThatNobodyListed: whoever may write a config chooses the host, and would get the operator's token.
func TestTokenFileIsNotSentToAHostThatNobodyListed(t *testing.T) {
	file := tokenFileOf(t, "a.b.c")
	host, connections := trap(t)
	for name, listed := range map[string]string{"no list": "", "others": "adb-1.7.azuredatabricks.net,0.0.0.0"} {
		t.Setenv("DATABRICKS_OIDC_TOKEN_HOSTS", listed)
		for _, verify := range []bool{true, false} {
			m := newMount(t)
			resp, err := m.do(logical.UpdateOperation, "config", map[string]any{"host": host, "auth_type": "oidc", "client_id": "x", "verify_connection": verify})
			m.refused(resp, err, "host: ", "DATABRICKS_OIDC_TOKEN_HOSTS", host[len("https://"):])
			require.NotContains(t, resp.Error().Error(), "a.b.c")
			require.Nil(t, m.absent("config"), name)

			// Nor as a change of a config that works, nor when the file can't be read.
			m.write("config", map[string]any{"host": m.workspace.URL(), "auth_type": "oidc", "client_id": "x", "verify_connection": false})
			require.NoError(t, os.Rename(file, file+"~"))
			resp, err = m.do(logical.UpdateOperation, "config", map[string]any{"host": host, "verify_connection": verify})
			m.refused(resp, err, "host: ", "DATABRICKS_OIDC_TOKEN_HOSTS")
			require.NoError(t, os.Rename(file+"~", file))
			require.Equal(t, m.workspace.URL(), m.read("config").Data["host"])
		}
	}
	require.Zero(t, connections.Load())

	t.Setenv("DATABRICKS_OIDC_TOKEN_HOSTS", "example.com, "+host)
	m := newMount(t)
	resp, err := m.do(logical.UpdateOperation, "config", map[string]any{"host": host, "auth_type": "oidc", "client_id": "x", "max_retries": 0})
	m.coded(http.StatusBadGateway, resp, err, "oidc/exchange")
	require.NotZero(t, connections.Load(), "a listed host is asked, so the trap works")
}

// TestStoredConfigOfAnUnlistedHostIsRefusedWhenItIsUsed: it may be from before there was a list, or the list has changed.
func TestStoredConfigOfAnUnlistedHostIsRefusedWhenItIsUsed(t *testing.T) {
	tokenFileOf(t, "a.b.c")
	host, connections := trap(t)
	t.Setenv("DATABRICKS_OIDC_TOKEN_HOSTS", host)
	m := newMount(t)
	m.write("roles/own", map[string]any{"credential_type": "oauth_token"})
	m.write("config", map[string]any{"host": host, "auth_type": "oidc", "client_id": "x", "identity_token_audience": "aud", "verify_connection": false})
	t.Setenv("DATABRICKS_OIDC_TOKEN_HOSTS", "")
	m.restart()
	for _, path := range []string{"creds/own", "tokens/1"} {
		resp, err := m.do(logical.ReadOperation, path, nil)
		m.refused(resp, err, "there is no identity token to exchange", "host: ", "-env=DATABRICKS_OIDC_TOKEN_HOSTS="+host[len("https://"):])
	}
	require.Empty(t, m.walEntries())
	require.Equal(t, host, m.read("config").Data["host"], "what needs no call goes on")
	m.read("status")
	require.Zero(t, connections.Load())
}

// TestTokenFileFollowsNobodyElsesWord: neither a redirect nor what a workspace says of its endpoints sends it anywhere else.
func TestTokenFileFollowsNobodyElsesWord(t *testing.T) {
	m, engine, sign := federated(t, "RS256")
	tokenFileOf(t, sign(nil))
	elsewhere := simulator.New()
	t.Cleanup(elsewhere.Close)
	for _, status := range []int{301, 302, 307, 308} {
		m.workspace.Inject(simulator.Fault{Path: "/oidc/v1/token", Status: status, Times: 1, Header: http.Header{"Location": {elsewhere.URL() + "/oidc/v1/token"}}})
		resp, err := m.do(logical.UpdateOperation, "config", map[string]any{"host": m.workspace.URL(), "auth_type": "oidc", "client_id": engine.ApplicationID})
		m.refused(resp, err, "redirected the request")
	}
	m.workspace.Inject(simulator.Fault{Path: "/.well-known/*", Body: `{"oidc_endpoint":"` + elsewhere.URL() + `/oidc"}`})
	m.workspace.Inject(simulator.Fault{Path: "/oidc/.well-known/*", Body: `{"token_endpoint":"` + elsewhere.URL() + `/oidc/v1/token"}`})
	m.workspace.ResetCalls()
	m.write("config", map[string]any{"host": m.workspace.URL(), "auth_type": "oidc", "client_id": engine.ApplicationID})
	require.Equal(t, "POST /oidc/v1/token", m.requests()[0])
	require.Empty(t, elsewhere.Calls())
}

func TestTokenFileNeedsNoAudience(t *testing.T) {
	m, engine, sign := federated(t, "ES256")
	tokenFileOf(t, sign(nil))
	resp := m.write("config", map[string]any{"host": m.workspace.URL(), "auth_type": "oidc", "client_id": engine.ApplicationID})
	require.Empty(t, resp.Data["identity_token_audience"])
	m.write("config", map[string]any{"ttl": "1m"})
	m.write("roles/own", map[string]any{"credential_type": "oauth_token"})
	m.mint("own")

	// Without the file, there is nothing to ask Vault for.
	t.Setenv("DATABRICKS_OIDC_TOKEN_FILEPATH", "")
	m.restart()
	resp, err := m.do(logical.ReadOperation, "creds/own", nil)
	m.refused(resp, err, "identity_token_audience: is missing", "registered without DATABRICKS_OIDC_TOKEN_FILEPATH")
	resp, err = m.do(logical.UpdateOperation, "config", map[string]any{"ttl": "2m"})
	m.refused(resp, err, "identity_token_audience: is missing")
	require.Empty(t, m.walEntries())
}
