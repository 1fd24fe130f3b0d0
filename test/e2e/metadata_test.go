// SPDX-License-Identifier: MPL-2.0

//go:build e2e

package e2e

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-databricks/internal/simulator"
)

// TestSDKsNeverMeetAnExpiredToken runs several clients of the official SDK for longer than three tokens live, with a role of each type that
// makes tokens.
func TestSDKsNeverMeetAnExpiredToken(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		credentialType string
		role           data
		create         string // the call that makes a token
	}{
		{"pat", data{"ttl": "6s", "max_ttl": "14s"}, "/api/2.0/token/create"},
		{"obo_token", data{"ttl": "8s", "max_ttl": "8s"}, "/api/2.0/token-management/on-behalf-of/tokens"},
		{"oauth_token", data{}, "/oidc/v1/token"},
	} {
		t.Run(c.credentialType, func(t *testing.T) {
			t.Parallel()
			m := newMountOf(t, pluginName, simulator.WithAccessTokenLifetime(8*time.Second))
			m.configure()
			c.role["credential_type"] = c.credentialType
			whose := m.admin
			if c.credentialType != "pat" {
				whose = m.workspace.AddServicePrincipal("job", false)
				m.workspace.SetTokenPermission(whose, true)
				c.role["application_id"] = whose.ApplicationID
			}
			m.write("roles/job", c.role)
			s := m.metadataCommand([]string{"VAULT_TOKEN=" + server.rootToken}, "-role", "job").serve()
			require.Equal(t, m.workspace.URL(), s.host)

			const clients = 8
			ctx, stop := context.WithTimeout(t.Context(), 2*patience)
			defer stop()
			var running sync.WaitGroup
			tokens := make([][]string, clients)
			errs := make([]error, clients)
			for i := range clients {
				running.Go(func() {
					user, err := s.newSDK()
					for err == nil && len(user.seen()) < 4 {
						err = user.call(ctx)
						time.Sleep(50 * time.Millisecond) // a client that does other things, too
					}
					tokens[i], errs[i] = user.seen(), err
				})
			}
			running.Wait()
			require.NoError(t, errors.Join(errs...), "it says %s", s.err)
			all := map[string]bool{}
			for _, some := range tokens {
				for _, token := range some {
					all[token] = true
				}
			}
			created := m.workspace.Count("POST", c.create)
			require.LessOrEqual(t, created, len(all)+1, "one token for all clients, and at most one ahead of time")
			require.NotContains(t, s.err.String(), "trying again")

			last, _ := s.requireAnswer()
			state := m.workspace.Introspect(last)
			require.Equal(t, whose.ID, state.Owner.ID)
			require.Equal(t, 0, s.stop(syscall.SIGTERM), "it says %s", s.err)
			if c.credentialType != "oauth_token" {
				for token := range all {
					require.False(t, m.works(token), "all are revoked at the end")
				}
				require.False(t, m.works(last))
			}
			leases, err := m.client.Logical().List("sys/leases/lookup/" + m.path + "/creds/job")
			require.NoError(t, err)
			require.Nil(t, leases, "Vault has no lease of it")
		})
	}
}

// TestARenewableLeaseKeepsItsToken: a renewal costs no call to Databricks.
func TestARenewableLeaseKeepsItsToken(t *testing.T) {
	t.Parallel()
	m := newConfiguredMount(t)
	m.write("roles/long", data{"credential_type": "pat", "ttl": "5s", "max_ttl": "1h"})
	s := m.metadataCommand([]string{"VAULT_TOKEN=" + server.rootToken}, "-role", "long").serve()
	first, expires := s.requireAnswer()
	m.workspace.ResetCalls()
	require.Eventually(t, func() bool {
		_, later, err := s.answer()
		return err == nil && later.Sub(expires) > 10*time.Second
	}, patience, 50*time.Millisecond)
	token, _ := s.requireAnswer()
	require.Equal(t, first, token)
	require.Zero(t, m.workspace.Count("POST", "*"))
	require.Equal(t, 0, s.stop(os.Interrupt))
	require.False(t, m.works(token))
}

func TestManyWhoAskAtOnceCostOneMint(t *testing.T) {
	t.Parallel()
	m := newConfiguredMount(t)
	s := m.metadataCommand([]string{"VAULT_TOKEN=" + server.rootToken}, "-role", "etl").serve()
	var asking sync.WaitGroup
	var users sync.Map
	for i := range 40 {
		asking.Go(func() {
			user, err := s.newSDK()
			if err == nil {
				err = user.call(t.Context())
			}
			if err != nil {
				t.Error(err)
				return
			}
			users.Store(i, user.seen()[0])
		})
	}
	asking.Wait()
	distinct := map[any]bool{}
	users.Range(func(_, token any) bool { distinct[token] = true; return true })
	require.Len(t, distinct, 1)
	require.Equal(t, 1, m.workspace.Count("POST", "/api/2.0/token/create"))

	other := simulator.New()
	t.Cleanup(other.Close)
	wrong := *s
	wrong.host = other.URL()
	user, err := wrong.newSDK()
	if err == nil {
		err = user.call(t.Context())
	}
	require.ErrorContains(t, err, "the access token is for "+m.workspace.URL(), "the SDK tells its user")
	require.Empty(t, other.Count("GET", "/api/2.1/jobs/list"))
}

// TestAServiceMayAskForLessThanItsRole, and VAULT_WRAP_TTL, which is for people, takes no lease away from it.
func TestAServiceMayAskForLessThanItsRole(t *testing.T) {
	t.Parallel()
	m := newConfiguredMount(t)
	m.write("roles/wide", data{"credential_type": "pat", "scopes": "sql,jobs", "ttl": "1h", "max_ttl": "1h"})
	s := m.metadataCommand([]string{"VAULT_TOKEN=" + server.rootToken, "VAULT_WRAP_TTL=60"}, "-role", "wide", "-ttl", "10m", "-scopes", "sql").serve()
	token, expires, err := s.answer()
	require.NoError(t, err)
	require.Equal(t, []string{"sql"}, m.workspace.Introspect(token).Scopes)
	require.Less(t, time.Until(expires), 10*time.Minute)
	require.Equal(t, 0, s.stop(syscall.SIGTERM))
	require.Empty(t, m.minted())
}

// TestRolesThatMakeNoTokenAreRefused: with what fits instead, and without a credential left behind.
func TestRolesThatMakeNoTokenAreRefused(t *testing.T) {
	t.Parallel()
	m := newConfiguredMount(t)
	sp := m.workspace.AddServicePrincipal("job", false)
	m.workspace.AddDatabaseEndpoint("projects/app/branches/main/endpoints/primary", "app.database.example.com")
	before := len(m.workspace.ServicePrincipals())
	for role, body := range map[string]data{
		"oauth_secret":        {"application_id": sp.ApplicationID},
		"service_principal":   {},
		"database_credential": {"database_endpoint": "projects/app/branches/main/endpoints/primary", "application_id": sp.ApplicationID},
	} {
		body["credential_type"] = role
		m.write("roles/"+role, body)
		said := m.metadataCommand([]string{"VAULT_TOKEN=" + server.rootToken}, "-role", role).fail()
		require.Contains(t, said, "role "+role+" makes credentials that are no tokens")
		require.Contains(t, said, "oauth_token, pat or obo_token")
		require.Empty(t, m.workspace.OAuthSecrets(sp))
		require.Len(t, m.workspace.ServicePrincipals(), before)
	}
}

// TestMetadataServiceSaysWhatToDo when it can't begin.
func TestMetadataServiceSaysWhatToDo(t *testing.T) {
	t.Parallel()
	m := newConfiguredMount(t)
	consumer := m.loginAs("consumer")
	token := "VAULT_TOKEN=" + consumer.client.Token()
	m.write("roles/other", data{"credential_type": "pat"})
	for _, c := range []struct {
		env  []string
		role string
		says []string
	}{
		{[]string{token}, "other", []string{"permission denied", `allows "read" on ` + m.path + "/creds/other"}},
		{[]string{"VAULT_TOKEN=" + server.rootToken}, "nobody", []string{`there is no role "nobody"`, "vault list " + m.path + "/roles"}},
		{nil, "etl", []string{"No Vault token was sent", "-token-file"}},
		{[]string{token, "VAULT_ADDR=http://127.0.0.1:1", "VAULT_MAX_RETRIES=0"}, "etl", []string{"connection refused", "VAULT_ADDR"}},
	} {
		said := m.metadataCommand(c.env, "-role", c.role).fail()
		for _, part := range c.says {
			require.Contains(t, said, part)
		}
		require.NotContains(t, said, consumer.client.Token())
	}
	require.Empty(t, m.minted())
}

// TestACommandHasATokenForAsLongAsItRuns: it gets the variables, its exit status and its signals are passed on, and the token ends with it.
func TestACommandHasATokenForAsLongAsItRuns(t *testing.T) {
	t.Parallel()
	m := newConfiguredMount(t)
	consumer := m.loginAs("consumer")
	home := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(home, ".vault-token"), []byte(consumer.client.Token()+"\n"), 0o600))
	run := func(script string) *metadata {
		env := []string{
			"HOME=" + home, "DATABRICKS_TOKEN=of-somebody-else", "DATABRICKS_CONFIG_PROFILE=other", "DATABRICKS_HOST=https://other.cloud.databricks.com",
		}
		return m.metadataCommand(env, "-role", "etl", "--", "sh", "-c", script)
	}

	s := run(`echo "$DATABRICKS_HOST $DATABRICKS_AUTH_TYPE $DATABRICKS_METADATA_SERVICE_URL [$DATABRICKS_TOKEN$DATABRICKS_CONFIG_PROFILE]"; exit 7`)
	err := s.cmd.Run()
	require.ErrorContains(t, err, "exit status 7")
	require.Regexp(t, `^`+regexp.QuoteMeta(m.workspace.URL())+` metadata-service http://127\.0\.0\.1:\d+/\w+/token \[\]\n$`, s.out.String())
	require.Empty(t, s.err.String(), "it adds nothing to what the command says")
	require.Equal(t, 1, m.workspace.Count("POST", "/api/2.0/token/create"))
	require.Empty(t, m.minted(), "by the policy in examples/policies")

	s = run(`trap 'echo told; exit 3' TERM; echo "$DATABRICKS_HOST $DATABRICKS_METADATA_SERVICE_URL"; while :; do sleep 0.1; done`)
	require.NoError(t, s.cmd.Start())
	require.Eventually(t, func() bool {
		s.host, s.url, _ = strings.Cut(strings.TrimSpace(s.out.String()), " ")
		return s.url != ""
	}, patience, 10*time.Millisecond)
	token, _ := s.requireAnswer()
	require.Equal(t, 3, s.stop(syscall.SIGTERM))
	require.Contains(t, s.out.String(), "told")
	require.False(t, m.works(token))

	s = run(`kill -KILL $$`)
	_ = s.cmd.Run()
	require.Equal(t, 128+9, s.cmd.ProcessState.ExitCode())
	require.Empty(t, m.minted())
}

// TestTheTokenWorksOnWhileVaultIsDown, which keeps all who ask it waiting here, and the next one comes when Vault is back.
func TestTheTokenWorksOnWhileVaultIsDown(t *testing.T) {
	t.Parallel()
	v := newOwnServer(t)
	m := newMountOn(t, v.vaultServer, pluginName)
	m.configure()
	m.write("roles/etl", data{"credential_type": "pat", "ttl": "20s", "max_ttl": "20s"})
	s := m.metadataCommand([]string{"VAULT_TOKEN=" + v.rootToken, "VAULT_MAX_RETRIES=0", "VAULT_CLIENT_TIMEOUT=3s"}, "-role", "etl").serve()
	first, _ := s.requireAnswer()
	restart := v.kill()
	require.Eventually(t, func() bool { return strings.Contains(s.err.String(), "gives no answer") }, patience, 20*time.Millisecond)
	require.Contains(t, s.err.String(), "The present access token lasts until")
	token, _, err := s.answer()
	require.NoError(t, err)
	require.Equal(t, first, token)
	restart()
	require.Eventually(t, func() bool {
		token, _, err = s.answer()
		return err == nil && token != first
	}, patience, 50*time.Millisecond, "it says %s", s.err)
	require.Eventually(t, func() bool { return strings.Contains(s.err.String(), "Vault gives access tokens again") }, patience, 20*time.Millisecond)
	token, _ = s.requireAnswer()
	require.Equal(t, 1, strings.Count(s.err.String(), "context deadline exceeded"), "a failure is said once: %s", s.err)
	require.Equal(t, 0, s.stop(syscall.SIGTERM), "it says %s", s.err)
	require.False(t, m.works(token))
}

// TestAccessTokensEndWithTheVaultToken that leased them; a new one in the file takes over before, and a policy that is put right again helps.
func TestAccessTokensEndWithTheVaultToken(t *testing.T) {
	t.Parallel()
	m := newConfiguredMount(t)
	policy, err := os.ReadFile("../../examples/policies/consumer.hcl")
	require.NoError(t, err)
	login := func(ttl string) string {
		require.NoError(t, m.client.Sys().PutPolicy(m.path, strings.ReplaceAll(string(policy), "databricks/", m.path+"/")))
		renewable := false
		made, err := m.client.Auth().Token().Create(&api.TokenCreateRequest{Policies: []string{m.path}, TTL: ttl, Renewable: &renewable})
		require.NoError(t, err)
		return made.Auth.ClientToken
	}
	file := filepath.Join(t.TempDir(), "token")
	require.NoError(t, os.WriteFile(file, []byte(login("15s")), 0o600))
	s := m.metadataCommand(nil, "-role", "etl", "-token-file", file).serve()
	first, expires := s.requireAnswer()
	require.Less(t, time.Until(expires), 15*time.Second, "although the lease is for an hour")
	require.Eventually(t, func() bool { return strings.Contains(s.err.String(), "the Vault token ends at") }, patience, 20*time.Millisecond)
	m.write("roles/etl", data{"ttl": "15s", "max_ttl": "15s"})
	require.NoError(t, os.WriteFile(file, []byte(login("1h")), 0o600))
	awaitNext := func(last string) (token string) {
		require.Eventually(t, func() bool {
			token, _, err = s.answer()
			return err == nil && token != last
		}, patience, 50*time.Millisecond, "it says %s", s.err)
		return token
	}
	second := awaitNext(first)

	// A policy that no longer allows it is no end either.
	deny := func() {
		require.NoError(t, m.client.Sys().PutPolicy(m.path, `path "nothing" { capabilities = ["read"] }`))
	}
	deny()
	require.Eventually(t, func() bool { return strings.Contains(s.err.String(), "permission denied") }, patience, 20*time.Millisecond)
	again, _ := s.requireAnswer()
	require.Equal(t, second, again)
	login("1h") // writes the policy again
	awaitNext(second)
	deny()
	require.Equal(t, 1, s.stop(syscall.SIGTERM), "it may not revoke")
	require.Contains(t, s.err.String(), "ends by itself at")
}

// TestMetadataServiceBehindVaultAgent: Agent logs in, and its cache does not stand between.
func TestMetadataServiceBehindVaultAgent(t *testing.T) {
	t.Parallel()
	m := newConfiguredMount(t)
	m.write("roles/etl", data{"credential_type": "pat", "ttl": "5s", "max_ttl": "7s"})
	dir := t.TempDir()
	tokenFile := filepath.Join(dir, "token")
	consumer := m.loginAs("consumer")
	require.NoError(t, os.WriteFile(tokenFile, []byte(consumer.client.Token()), 0o600))
	port, err := freePort()
	require.NoError(t, err)
	address := fmt.Sprintf("127.0.0.1:%d", port)
	configFile := filepath.Join(dir, "agent.hcl")
	require.NoError(t, os.WriteFile(configFile, fmt.Appendf(nil, `
		vault { address = %q }
		auto_auth {
			method "token_file" { config = { token_file_path = %q } }
		}
		cache {}
		api_proxy { use_auto_auth_token = true }
		listener "tcp" {
			address     = %q
			tls_disable = true
		}
	`, m.server.addr, tokenFile, address), 0o600))
	agent := exec.Command(m.server.vault, "agent", "-config="+configFile)
	agent.Env = []string{"HOME=" + dir, "PATH=" + os.Getenv("PATH")}
	said := &output{}
	agent.Stdout, agent.Stderr = said, said
	require.NoError(t, agent.Start())
	t.Cleanup(func() {
		_ = agent.Process.Kill()
		_ = agent.Wait()
	})
	require.Eventually(t, func() bool {
		response, err := http.Get("http://" + address + "/v1/auth/token/lookup-self")
		if err == nil {
			response.Body.Close()
		}
		return err == nil && response.StatusCode == 200
	}, patience, 50*time.Millisecond, "%s", said)

	s := m.metadataCommand([]string{"VAULT_ADDR=http://" + address}, "-role", "etl").serve()
	user, err := s.newSDK()
	require.NoError(t, err)
	require.Eventually(t, func() bool {
		require.NoError(t, user.call(t.Context()), "it says %s\n%s", s.err, said)
		return len(user.seen()) == 3
	}, patience, 50*time.Millisecond)
	require.Equal(t, 0, s.stop(syscall.SIGTERM), "it says %s", s.err)
	require.Empty(t, m.minted())
}

// TestCommandsOfTheMetadataManual types the commands of docs/metadata-service.md, each block in one shell.
func TestCommandsOfTheMetadataManual(t *testing.T) {
	t.Parallel()
	m := newConfiguredMount(t)
	consumer := m.loginAs("consumer")
	manual, err := os.ReadFile("../../docs/metadata-service.md")
	require.NoError(t, err)
	service, err := metadataBinary()
	require.NoError(t, err)
	self, err := os.Executable()
	require.NoError(t, err)
	bin, home := t.TempDir(), t.TempDir()
	require.NoError(t, os.Symlink(self, filepath.Join(bin, "databricks")))
	require.NoError(t, os.Symlink(service, filepath.Join(bin, metadataName)))
	blocks := consoleBlock.FindAllStringSubmatch(string(manual), -1)
	require.Len(t, blocks, 2)
	for _, block := range blocks {
		var script strings.Builder
		for _, part := range strings.Split("\n"+lineGoesOn.ReplaceAllString(block[1], ""), "\n$ ")[1:] {
			line, _, _ := strings.Cut(part, "\n")
			script.WriteString(strings.ReplaceAll(line, metadataName+" ", metadataName+" -mount "+m.path+" ") + "\n")
		}
		cmd := exec.Command("sh", "-ec", script.String())
		cmd.Dir = t.TempDir()
		cmd.Env = []string{
			"HOME=" + home, "PATH=" + bin + string(os.PathListSeparator) + os.Getenv("PATH"),
			"VAULT_ADDR=" + server.addr, "VAULT_TOKEN=" + consumer.client.Token(),
		}
		out, err := cmd.CombinedOutput()
		require.NoError(t, err, "%s\n%s", script.String(), out)
		require.Contains(t, string(out), m.admin.UserName)
		require.NotRegexp(t, anySecret, string(out))
		require.Empty(t, m.minted(), "the token ends with the command or the service")
	}
}
