// SPDX-License-Identifier: MPL-2.0

//go:build e2e

package e2e

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-databricks/internal/simulator"
)

const tokenHostsVariable = "DATABRICKS_OIDC_TOKEN_HOSTS"

// trap is a port that counts its connections and is not on a loopback address, though it is reached without a network.
func trap(t *testing.T) (host string, connections *atomic.Int64) {
	t.Helper()
	listener, err := net.Listen("tcp", "0.0.0.0:0")
	require.NoError(t, err)
	connections = new(atomic.Int64)
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			connections.Add(1)
			_ = conn.Close()
		}
	}()
	t.Cleanup(func() { _ = listener.Close() })
	return fmt.Sprintf("0.0.0.0:%d", listener.Addr().(*net.TCPAddr).Port), connections
}

// TestTokenFileIsNotSentToAHostThatNobodyListed: whoever may write a config, and no more than that, chooses the host.
func TestTokenFileIsNotSentToAHostThatNobodyListed(t *testing.T) {
	t.Parallel()
	issuer := simulator.NewIssuer("RS256")
	file := filepath.Join(t.TempDir(), "token")
	token := server.secret(issuer.Sign(claims(time.Hour)), "the operator's identity token")
	require.NoError(t, os.WriteFile(file, []byte(token), 0o600))
	attacker, connections := trap(t)
	listed, asked := trap(t)
	m := newMountOf(t, newOwnPlugin(t, tokenFileVariable+"="+file, tokenHostsVariable+"=dbc-a1b2c3d4-e5f6.cloud.databricks.com, "+listed))
	config := data{"host": "https://" + attacker, "auth_type": "oidc", "client_id": "6f5ccf28-d83a-4957-9bfb-5bbfac551410"}
	for _, verify := range []bool{true, false} {
		config["verify_connection"] = verify
		_, err := m.tryWrite("config", config)
		requireRefused(t, err, 400, "host: ", attacker+" is not one of them", attacker+" added to that variable")
		require.NotContains(t, err.Error(), token)
		require.NotContains(t, err.Error(), listed, "the operator's other hosts")
		m.requireAbsent("config")
	}
	config["host"] = m.workspace.URL()
	m.write("config", config) // loopback needs no entry
	_, err := m.tryWrite("config", data{"host": "https://" + attacker})
	requireRefused(t, err, 400, "host: ")
	require.Equal(t, m.workspace.URL(), m.read("config")["host"])
	require.Zero(t, connections.Load(), "the attacker's host was not contacted")

	config["host"], config["verify_connection"], config["max_retries"] = "https://"+listed, true, 0
	_, err = m.tryWrite("config", config)
	requireRefused(t, err, 502, "oidc/exchange")
	require.NotZero(t, asked.Load(), "a listed host is, so the trap works")
}

// TestStoredConfigOfAnUnlistedHostIsRefusedOnUse: the operator may register the plugin with other hosts than before, or it is an older config.
func TestStoredConfigOfAnUnlistedHostIsRefusedOnUse(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "token")
	require.NoError(t, os.WriteFile(file, []byte("a.b.c"), 0o600))
	host, connections := trap(t)
	plugin := newOwnPlugin(t, tokenFileVariable+"="+file, tokenHostsVariable+"="+host)
	m := newMountOf(t, plugin)
	m.write("roles/own", data{"credential_type": "oauth_token"})
	m.write("config", data{"host": "https://" + host, "auth_type": "oidc", "client_id": "6f5ccf28-d83a-4957-9bfb-5bbfac551410", "verify_connection": false})
	require.NoError(t, server.register(plugin, plugin, tokenFileVariable+"="+file))
	_, err := m.client.Logical().Write("sys/plugins/reload/backend", data{"plugin": plugin})
	require.NoError(t, err)
	_, err = m.tryMint("own", nil)
	requireRefused(t, err, 400, "host: ", "-env="+tokenHostsVariable+"="+host)
	require.Equal(t, "https://"+host, m.read("config")["host"])
	require.Zero(t, connections.Load())
}

var hclBlock = regexp.MustCompile("(?s)```hcl\\n(.*?)```")

// TestVaultAgentKeepsTheTokenFileFresh types the commands of docs/auth.md, starts Vault Agent with the configuration there, and connects by
// the file that it writes. The federation policy has the keys that Vault publishes, as where Databricks can't reach it.
func TestVaultAgentKeepsTheTokenFileFresh(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../../docs/auth.md")
	require.NoError(t, err)
	_, section, found := strings.Cut(string(text), "#### A token of Vault, kept fresh by Vault Agent")
	require.True(t, found)
	dir := t.TempDir()
	file := filepath.Join(dir, "token")
	m := &connected{mount: newMountOf(t, newOwnPlugin(t, tokenFileVariable+"="+file))}
	m.engine = m.workspace.AddServicePrincipal("engine", false)
	asHere := strings.NewReplacer("/etc/vault-agent", dir, "/var/run/secrets/databricks/token", file, "https://vault.example.com:8200", server.addr, `"10m"`, `"1s"`)

	bin := t.TempDir()
	require.NoError(t, os.Symlink(server.vault, filepath.Join(bin, "vault")))
	environment := []string{"HOME=" + dir, "PATH=" + bin + string(os.PathListSeparator) + os.Getenv("PATH"), "VAULT_ADDR=" + server.addr}
	commands := strings.Split("\n"+consoleBlock.FindStringSubmatch(section)[1], "\n$ ")[1:]
	require.Len(t, commands, 7)
	for _, command := range commands {
		cmd := exec.Command("sh", "-c", asHere.Replace(command))
		cmd.Env = append(environment, "VAULT_TOKEN="+server.rootToken)
		out, err := cmd.CombinedOutput()
		require.NoError(t, err, "%s\n%s", command, out)
	}
	t.Cleanup(func() { _ = m.client.Sys().DisableAuth("approle") })

	config := filepath.Join(dir, "agent.hcl")
	require.NoError(t, os.WriteFile(config, []byte(asHere.Replace(hclBlock.FindStringSubmatch(section)[1])), 0o600))
	agent := exec.Command(server.vault, "agent", "-config="+config)
	agent.Env = environment
	var said strings.Builder
	agent.Stdout, agent.Stderr = &said, &said
	require.NoError(t, agent.Start())
	stop := func() {
		if agent.ProcessState == nil {
			_ = agent.Process.Kill()
			_ = agent.Wait()
		}
	}
	t.Cleanup(stop)
	written := func(other string) string {
		var content string
		require.Eventually(t, func() bool {
			raw, err := os.ReadFile(file)
			content = string(raw)
			return err == nil && content != "" && content != other
		}, patience, 50*time.Millisecond, "the agent writes a token")
		return server.secret(content, "an identity token of Vault")
	}
	first := written("")
	second := written(first)
	stop()
	require.NotContains(t, said.String(), second)

	claimsOf := func(token string) (claims map[string]any) {
		raw, err := base64.RawURLEncoding.DecodeString(strings.Split(token, ".")[1])
		require.NoError(t, err)
		require.NoError(t, json.Unmarshal(raw, &claims))
		return claims
	}
	claims := claimsOf(second)
	require.Equal(t, "databricks", claims["aud"])
	require.True(t, strings.HasSuffix(claims["iss"].(string), "/v1/identity/oidc"), claims["iss"])
	require.Equal(t, claimsOf(first)["sub"], claims["sub"])
	entity, err := m.client.Logical().Read("identity/entity/id/" + claims["sub"].(string))
	require.NoError(t, err)
	require.NotNil(t, entity, "the subject is the id of the entity")

	response, err := http.Get(server.addr + "/v1/identity/oidc/.well-known/keys")
	require.NoError(t, err)
	defer response.Body.Close()
	keys, err := io.ReadAll(response.Body)
	require.NoError(t, err)
	var set struct{ Keys []any }
	require.NoError(t, json.Unmarshal(keys, &set))
	require.GreaterOrEqual(t, len(set.Keys), 2, "the next key is published before it signs")
	m.workspace.AddFederationPolicy(&m.engine, simulator.FederationPolicy{
		Issuer: claims["iss"].(string), Subject: claims["sub"].(string), Audiences: []string{"databricks"}, JWKS: keys,
	})
	m.write("config", data{"host": m.workspace.URL(), "auth_type": "oidc", "client_id": m.engine.ApplicationID})
	m.write("roles/own", data{"credential_type": "oauth_token"})
	require.Equal(t, m.engine.ID, m.workspace.Introspect(secretPartOf(m.mint("own"))).Owner.ID)
}
