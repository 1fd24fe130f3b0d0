// SPDX-License-Identifier: MPL-2.0

//go:build e2e

package e2e

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-databricks/internal/simulator"
)

// newIdentityProvider serves what Vault asks an issuer of identity tokens, such as GitLab.
func newIdentityProvider(t *testing.T) (*simulator.Issuer, string) {
	t.Helper()
	issuer := simulator.NewIssuer("RS256")
	var url string
	provider := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		if r.URL.Path == "/keys" {
			_, _ = w.Write(issuer.JWKS())
			return
		}
		_ = json.NewEncoder(w).Encode(data{"issuer": url, "jwks_uri": url + "/keys", "authorization_endpoint": url, "token_endpoint": url, "id_token_signing_alg_values_supported": []string{"RS256"}})
	}))
	t.Cleanup(provider.Close)
	url = provider.URL
	return issuer, url
}

// exampleScript runs a script of examples/, with other names in it, and returns what it said. vault and bao are the tests' Vault.
func exampleScript(t *testing.T, folder string, asHere *strings.Replacer, environment []string, script string, arguments ...string) (string, error) {
	t.Helper()
	dir := t.TempDir()
	require.NoError(t, os.CopyFS(dir, os.DirFS("../../examples/"+folder)))
	for _, name := range []string{"vault", "bao"} {
		require.NoError(t, os.Symlink(server.vault, filepath.Join(dir, name)))
	}
	files, err := filepath.Glob(filepath.Join(dir, "*.*"))
	require.NoError(t, err)
	for _, file := range files {
		text, err := os.ReadFile(file)
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(file, []byte(asHere.Replace(string(text))), 0o700))
	}
	cmd := exec.Command(filepath.Join(dir, script), arguments...)
	cmd.Dir = dir
	cmd.Env = append(environment, "HOME="+dir, "VAULT_ADDR="+server.addr)
	for i, pair := range cmd.Env {
		if path, ok := strings.CutPrefix(pair, "PATH="); ok {
			cmd.Env[i] = "PATH=" + dir + string(os.PathListSeparator) + path
		}
	}
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// TestCIJobDeploysWithAMintedCredential runs examples/ci: setup.sh as an operator, then deploy.sh as the job, with a stand-in for Databricks' CLI.
func TestCIJobDeploysWithAMintedCredential(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("jq"); err != nil {
		t.Skip("SKIPPED: examples/ci/deploy.sh was not run: there is no jq in PATH")
	}
	m := newConfiguredMount(t)
	sp := m.workspace.AddServicePrincipal("ci", false)
	m.workspace.SetTokenPermission(sp, true)
	issuer, url := newIdentityProvider(t)
	auth := m.path + "-jwt"
	asHere := strings.NewReplacer("databricks/", m.path+"/", "auth/jwt/", "auth/"+auth+"/", "auth enable jwt", "auth enable -path="+auth+" jwt",
		"https://gitlab.example.com", url, "databricks-ci", m.path+"-ci")
	t.Cleanup(func() { _ = m.client.Sys().DisableAuth(auth) })
	path := "PATH=" + os.Getenv("PATH")
	out, err := exampleScript(t, "ci", asHere, []string{path, "VAULT_TOKEN=" + server.rootToken}, "setup.sh", sp.ApplicationID)
	require.NoError(t, err, out)

	cli := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(cli, "databricks"), []byte(`#!/bin/sh
echo "$*" >"$0.arguments"
curl --silent --output /dev/null --write-out '%{http_code}' --header "Authorization: Bearer $DATABRICKS_TOKEN" "$DATABRICKS_HOST/api/2.0/preview/scim/v2/Me" >"$0.status"
`+"exit \"$FAILS\"\n"), 0o700))
	result := func(name string) string {
		text, err := os.ReadFile(filepath.Join(cli, "databricks."+name))
		require.NoError(t, err)
		return strings.TrimSpace(string(text))
	}
	deploy := func(ref, fails string) error {
		token := issuer.Sign(data{
			"iss": url, "aud": "https://vault.example.com:8200", "sub": "project_path:data/etl:ref_type:branch:ref:" + ref, "exp": time.Now().Add(time.Hour).Unix(),
			"iat": time.Now().Unix(), "nbf": time.Now().Unix(), "project_path": "data/etl", "ref": ref, "ref_protected": "true",
		})
		out, err := exampleScript(t, "ci", asHere, []string{"PATH=" + cli + string(os.PathListSeparator) + os.Getenv("PATH"), "VAULT_ID_TOKEN=" + token, "FAILS=" + fails}, "deploy.sh", "prod")
		require.NotRegexp(t, anySecret, strings.ReplaceAll(out, token, ""))
		if err != nil {
			t.Log(out)
		}
		return err
	}
	require.NoError(t, deploy("main", "0"))
	require.Equal(t, "bundle deploy --target prod", result("arguments"))
	require.Equal(t, "200", result("status"), "the credential works")
	require.Empty(t, m.minted(), "and is revoked at the end")
	require.Error(t, deploy("main", "1"))
	require.Empty(t, m.minted(), "also where the deployment failed")
	require.Equal(t, 2, m.workspace.Count("POST", "/api/2.0/token-management/on-behalf-of/tokens"))
	require.Error(t, deploy("feature", "0"), "another branch may not log in")
	require.Equal(t, 2, m.workspace.Count("POST", "/api/2.0/token-management/on-behalf-of/tokens"))
}

// TestRegistrationScript runs examples/openbao/register.sh, with this server's binary as bao.
func TestRegistrationScript(t *testing.T) {
	t.Parallel()
	client, err := server.client(server.rootToken)
	require.NoError(t, err)
	const path = "registered-by-script"
	out, err := exec.Command(filepath.Join(server.pluginDir, pluginName), "-version").Output()
	require.NoError(t, err)
	pluginVersion := regexp.MustCompile(`v\d+\.\d+\.\d+\S*`).FindString(string(out))
	t.Cleanup(func() {
		_ = client.Sys().Unmount(path)
		_, _ = client.Logical().DeleteWithData("sys/plugins/catalog/secret/databricks", map[string][]string{"version": {pluginVersion}})
	})
	said, err := exampleScript(t, "openbao", strings.NewReplacer("-path=databricks", "-path="+path), []string{"PATH=" + os.Getenv("PATH"), "VAULT_TOKEN=" + server.rootToken}, "register.sh", server.pluginDir, pluginVersion)
	require.NoError(t, err, said)
	status, err := client.Logical().Read(path + "/status")
	require.NoError(t, err)
	require.Equal(t, false, status.Data["configured"])
}
