// SPDX-License-Identifier: MPL-2.0

//go:build e2e

package e2e

import (
	"encoding/base64"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-databricks/internal/simulator"
)

// withSchema is newConfiguredMount with the schema main.app, which belongs to the engine's identity.
func withSchema(t *testing.T) *mount {
	t.Helper()
	m := newConfiguredMount(t)
	m.workspace.AddUCSchema("main", "app", m.admin)
	return m
}

// ucValues are the values of the secrets in main.app.
func (m *mount) ucValues() map[string]string {
	values := map[string]string{}
	for name, s := range m.workspace.UCSecrets("main", "app") {
		values[name] = s.Value
	}
	return values
}

func TestUCSecretIsWrittenReadListedAndDeleted(t *testing.T) {
	t.Parallel()
	m := withSchema(t)
	m.requireAbsent("uc-secrets/main/app/api-key")
	first := server.secret("the-first-value-in-unity-catalog", "a secret")
	written := m.write("uc-secrets/main/app/api-key", data{"string_value": first, "comment": "of the billing API"})
	require.Equal(t, data{"catalog": "main", "schema": "app", "name": "api-key", "full_name": "main.app.api-key"}, written.Data)
	require.Empty(t, written.LeaseID, "without a ttl there is no lease")
	read := m.read("uc-secrets/main/app/api-key")
	require.Equal(t, first, read["string_value"])
	require.Equal(t, base64.StdEncoding.EncodeToString([]byte(first)), read["bytes_value"])
	require.Equal(t, "of the billing API", read["comment"])
	require.Equal(t, m.admin.UserName, read["owner"])
	require.WithinDuration(t, time.Now(), timeOf(t, read["last_updated_timestamp"]), patience)

	second := server.secret("the-second-value-in-unity-catalog", "a secret")
	m.write("uc-secrets/main/app/api-key", data{"bytes_value": base64.StdEncoding.EncodeToString([]byte(second))})
	require.Equal(t, second, m.read("uc-secrets/main/app/api-key")["string_value"])
	_, err := m.tryWrite("uc-secrets/main/app/API-KEY", data{"string_value": first, "if_absent": true})
	requireRefused(t, err, 400, "already exists and was not overwritten")
	require.Equal(t, []string{"api-key"}, m.keys("uc-secrets/main/app"))
	info, ok := m.details("uc-secrets/main/app")["api-key"].(map[string]any)
	require.True(t, ok)
	require.Equal(t, "of the billing API", info["comment"])
	for range 2 {
		_, err := m.client.Logical().Delete(m.path + "/uc-secrets/main/app/api-key")
		require.NoError(t, err)
	}
	m.requireAbsent("uc-secrets/main/app/api-key")
	require.Empty(t, m.ucValues())
}

func TestUCSecretsAreMissingInSomeWorkspaces(t *testing.T) {
	t.Parallel()
	m := newMountOf(t, pluginName, simulator.WithoutUCSecrets())
	m.configure()
	_, err := m.tryWrite("uc-secrets/main/app/k", data{"string_value": "a-value-that-goes-nowhere"})
	requireRefused(t, err, 400, "this workspace has no secrets in Unity Catalog", "preview")
	_, err = m.tryWrite("creds/etl", data{"deliver_uc": "main.app.k"})
	requireRefused(t, err, 400, "this workspace has no secrets in Unity Catalog")
	require.Empty(t, m.minted())
}

func TestLeasedUCSecretEndsWithItsLease(t *testing.T) {
	t.Parallel()
	m := withSchema(t)
	value := server.secret("leased-in-unity-catalog", "a secret")
	short := m.write("uc-secrets/main/app/short", data{"string_value": value, "ttl": "2s"})
	require.NotEmpty(t, short.LeaseID)
	revoked := m.write("uc-secrets/main/app/revoked", data{"string_value": value, "ttl": "1h"})
	overwritten := m.write("uc-secrets/main/app/overwritten", data{"string_value": value, "ttl": "1h"})
	m.workspace.PutUCSecret("main.app.overwritten", "by somebody else", m.admin)
	m.revoke(revoked)
	m.revoke(overwritten)
	require.Eventually(t, func() bool { return len(m.ucValues()) == 1 }, patience, 100*time.Millisecond)
	require.Equal(t, map[string]string{"overwritten": "by somebody else"}, m.ucValues())
}

func TestUCPushMakesASchemaEqual(t *testing.T) {
	t.Parallel()
	m := withSchema(t)
	value := server.secret("pushed-to-unity-catalog", "a secret")
	m.write("uc-secrets/main/app/leased", data{"string_value": value, "ttl": "1h"})
	m.workspace.PutUCSecret("main.app.surplus", "v", m.admin)
	body := data{"secrets": data{"user": value, "password": value}, "prune": true}
	body["dry_run"] = true
	planned := m.write("uc-secrets/main/app", body)
	delete(body, "dry_run")
	pushed := m.write("uc-secrets/main/app", body)
	require.Equal(t, planned.Data, pushed.Data)
	require.Equal(t, []any{"password", "user"}, pushed.Data["written"])
	require.Equal(t, []any{"surplus"}, pushed.Data["deleted"])
	require.Equal(t, []any{"leased"}, pushed.Data["kept"])
	require.Equal(t, map[string]string{"leased": value, "user": value, "password": value}, m.ucValues())
}

func TestDeliveryToUnityCatalog(t *testing.T) {
	t.Parallel()
	m := withSchema(t)
	secret := m.write("creds/etl", data{"deliver_uc": "main.app.token"})
	require.Equal(t, "main.app.token", secret.Data["deliver_uc"])
	require.NotContains(t, secret.Data, "token_value")
	token := server.secret(m.ucValues()["token"], "a delivered token")
	require.True(t, m.works(token))
	require.NotContains(t, fmt.Sprint(secret), token)
	m.revoke(secret)
	require.False(t, m.works(token))
	require.Empty(t, m.ucValues())
	require.Empty(t, m.minted())
}

func TestStaticRoleDeliversToUnityCatalog(t *testing.T) {
	t.Parallel()
	m := withSchema(t)
	m.write("static-roles/bi", data{"credential_type": "pat", "rotation_period": "24h", "deliver_uc": "main.app.bi"})
	first := server.secret(m.ucValues()["bi"], "a static credential")
	require.True(t, m.works(first))
	m.write("rotate-role/bi", data{})
	second := server.secret(m.ucValues()["bi"], "a static credential")
	require.NotEqual(t, first, second)
	require.True(t, m.works(second))
	_, err := m.client.Logical().Delete(m.path + "/static-roles/bi")
	require.NoError(t, err)
	require.Empty(t, m.ucValues())
	require.False(t, m.works(second))
}

func TestPolicyOfAUCPusher(t *testing.T) {
	t.Parallel()
	m := newConfiguredMount(t)
	value := server.secret("pushed-by-a-team-to-unity-catalog", "a secret")
	for _, schema := range []string{"team_a", "team_b"} {
		m.workspace.AddUCSchema("main", schema, m.admin)
		m.write("uc-secrets/main/"+schema+"/there", data{"string_value": value})
	}
	team := m.loginAs("uc-pusher")
	team.may("write", "uc-secrets/main/team_a/new", data{"string_value": value, "comment": "c"})
	lease := team.may("write", "uc-secrets/main/team_a/leased", data{"string_value": value, "ttl": "1h"})
	require.NotEmpty(t, lease.LeaseID)
	require.ElementsMatch(t, []any{"there", "new", "leased"}, team.may("list", "uc-secrets/main/team_a", nil).Data["keys"])
	team.may("write", "uc-secrets/main/team_a", data{"secrets": data{"only": value}, "prune": true})
	require.ElementsMatch(t, []string{"leased", "only"}, m.keys("uc-secrets/main/team_a"))

	team.mayNot("read", "uc-secrets/main/team_a/only", nil)
	team.mayNot("delete", "uc-secrets/main/team_a/only", nil)
	team.mayNot("write", "uc-secrets/main/team_a/only", data{"string_value": value, "owner": "users"})
	_, err := team.try("write", "uc-secrets/main/team_a/only", data{"string_value": value, "Owner": "users"})
	require.Error(t, err)
	require.Equal(t, m.admin.UserName, m.workspace.UCSecrets("main", "team_a")["only"].Owner)
	team.mayDoNothingWith("uc-secrets/main/team_b", "uc-secrets/main/team_b/there", "uc-secrets/MAIN/team_a/only", "uc-secrets/main/Team_A", "secrets/etl", "config", "creds/etl")
}

func TestPolicyBindsDeliveryToOneSchema(t *testing.T) {
	t.Parallel()
	m := withSchema(t)
	m.workspace.AddUCSchema("main", "other", m.admin)
	courier := &person{mount: m, client: m.loginWith(fmt.Sprintf(`path "%s/creds/etl" {
		capabilities        = ["update"]
		required_parameters = ["deliver_uc"]
		allowed_parameters  = { "deliver_uc" = ["main.app.*"] }
	}`, m.path))}
	courier.may("write", "creds/etl", data{"deliver_uc": "main.app.token"})
	require.True(t, m.works(server.secret(m.ucValues()["token"], "a delivered token")))
	for _, body := range []data{
		{}, {"deliver_uc": "main.other.token"}, {"deliver_uc": "MAIN.app.token"}, {"deliver_uc": "main.App.token"}, {"deliver_uc": "main.app"},
		{"deliver_uc": "main.app.token", "ttl": "1m"}, {"deliver_scope": "etl", "deliver_key": "k"},
		{"deliver_uc": "main.app.token", "deliver_scope": "etl", "deliver_key": "k"},
	} {
		courier.mayNot("write", "creds/etl", body)
	}
	// Vault lets what is empty pass, so the engine must refuse it, and names with more parts.
	for _, place := range []any{"", []any{}, "main.app.a.b", "main.app."} {
		_, err := courier.try("write", "creds/etl", data{"deliver_uc": place})
		requireRefused(t, err, 400, "deliver_uc")
	}
	require.Empty(t, m.workspace.UCSecrets("main", "other"))
	require.Len(t, m.minted(), 1)
}

func TestPolicyEndsLeasesOfOneUCSecret(t *testing.T) {
	t.Parallel()
	m := withSchema(t)
	body := func() data { return data{"string_value": "leased-under-a-policy", "ttl": "1h"} }
	mine, other := m.write("uc-secrets/main/app/mine", body()), m.write("uc-secrets/main/app/mine2", body())
	team := m.loginWith(fmt.Sprintf(`path "sys/leases/revoke/%s/uc-secrets/main/app/mine/+" { capabilities = ["update"] }`, m.path))
	requireRefused(t, team.Sys().RevokeWithOptions(revokeNow(other)), 403)
	require.NoError(t, team.Sys().RevokeWithOptions(revokeNow(mine)))
	require.Equal(t, map[string]string{"mine2": "leased-under-a-policy"}, m.ucValues())
}

// TestCommandsOfTheUCManual types the commands of docs/uc-secrets.md, in its order.
func TestCommandsOfTheUCManual(t *testing.T) {
	t.Parallel()
	m := withSchema(t)
	manual, err := os.ReadFile("../../docs/uc-secrets.md")
	require.NoError(t, err)
	bin := t.TempDir()
	require.NoError(t, os.Symlink(server.vault, filepath.Join(bin, "vault")))
	value := server.secret("typed-as-the-uc-manual-says", "a secret")
	policy := m.path
	_, err = m.client.Logical().Write("sys/policies/password/"+policy, data{"policy": "length = 20\nrule \"charset\" { charset = \"abcdefghijklmnopqrstuvwxyz\" }"})
	require.NoError(t, err)
	asHere := strings.NewReplacer("databricks/", m.path+"/", "password_policy=strong", "password_policy="+policy)
	typed := 0
	for _, block := range consoleBlock.FindAllStringSubmatch(string(manual), -1) {
		for _, line := range strings.Split("\n"+block[1], "\n$ ")[1:] {
			cmd := exec.Command("bash", "-c", asHere.Replace(line))
			cmd.Env = []string{
				"HOME=" + t.TempDir(), "PATH=" + bin + string(os.PathListSeparator) + os.Getenv("PATH"), "VAULT_ADDR=" + server.addr,
				"VAULT_TOKEN=" + server.rootToken, "API_KEY=" + value,
			}
			out, err := cmd.CombinedOutput()
			require.NoError(t, err, "%s\n%s", line, out)
			typed++
		}
	}
	require.Equal(t, 11, typed)
	require.NotContains(t, m.ucValues(), "db", "its lease was revoked")
	require.Equal(t, value, m.ucValues()["api-key"])
}
