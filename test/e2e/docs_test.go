// SPDX-License-Identifier: MPL-2.0

//go:build e2e

package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// secretsAPI has the eleven methods of the Databricks SDK's SecretsAPI and the endpoint behind each (Databricks REST
// reference, Secrets API).
var secretsAPI = map[string]struct{ method, path string }{
	"create_scope":  {"POST", "/api/2.0/secrets/scopes/create"},
	"delete_acl":    {"POST", "/api/2.0/secrets/acls/delete"},
	"delete_scope":  {"POST", "/api/2.0/secrets/scopes/delete"},
	"delete_secret": {"POST", "/api/2.0/secrets/delete"},
	"get_acl":       {"GET", "/api/2.0/secrets/acls/get"},
	"get_secret":    {"GET", "/api/2.0/secrets/get"},
	"list_acls":     {"GET", "/api/2.0/secrets/acls/list"},
	"list_scopes":   {"GET", "/api/2.0/secrets/scopes/list"},
	"list_secrets":  {"GET", "/api/2.0/secrets/list"},
	"put_acl":       {"POST", "/api/2.0/secrets/acls/put"},
	"put_secret":    {"POST", "/api/2.0/secrets/put"},
}

var (
	methodRow = regexp.MustCompile("(?m)^\\| `([a-z_]+)` \\| `vault ([^`]+)` \\|$")
	testName  = regexp.MustCompile("`(Test[A-Za-z]+)`")
)

// TestCommandsOfTheManualReachEveryMethod types the commands of the table in docs/secrets.md, in its order.
func TestCommandsOfTheManualReachEveryMethod(t *testing.T) {
	t.Parallel()
	m := newConfiguredMount(t)
	m.workspace.AddGroup("engineers")
	manual, err := os.ReadFile("../../docs/secrets.md")
	require.NoError(t, err)
	vault, err := findVault()
	require.NoError(t, err)
	value := server.secret("typed-as-the-manual-says", "a secret")

	seen := map[string]bool{}
	for _, row := range methodRow.FindAllStringSubmatch(string(manual), -1) {
		method, command := row[1], strings.ReplaceAll(row[2], "databricks/", m.path+"/")
		endpoint, known := secretsAPI[method]
		require.True(t, known, method)
		seen[method] = true
		m.workspace.ResetCalls()
		cmd := exec.Command(vault, strings.Fields(command)...)
		cmd.Env = []string{"HOME=" + t.TempDir(), "VAULT_ADDR=" + server.addr, "VAULT_TOKEN=" + server.rootToken}
		cmd.Stdin = strings.NewReader(value)
		out, err := cmd.CombinedOutput()
		require.NoError(t, err, "vault %s\n%s", command, out)
		require.NotZero(t, m.workspace.Count(endpoint.method, endpoint.path), "vault %s calls %s", command, endpoint.path)
		if method == "put_secret" {
			require.NotContains(t, string(out), value)
			stored, _ := m.value("etl", "api-key")
			require.Equal(t, value, stored)
		}
	}
	require.Len(t, seen, len(secretsAPI), "the table has every method")
}

// TestManualsNameTestsThatExist: what the manuals say is tested is. The pages for users name none.
func TestManualsNameTestsThatExist(t *testing.T) {
	t.Parallel()
	var sources strings.Builder
	files, err := filepath.Glob("*_test.go")
	require.NoError(t, err)
	for _, units := range []string{"../../*_test.go", "../../cmd/*/*_test.go"} {
		more, err := filepath.Glob(units)
		require.NoError(t, err)
		files = append(files, more...)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		require.NoError(t, err)
		sources.Write(text)
	}
	manuals, err := filepath.Glob("../../docs/*.md")
	require.NoError(t, err)
	named := map[string]int{}
	for _, manual := range append(manuals, "../../README.md") {
		text, err := os.ReadFile(manual)
		require.NoError(t, err)
		for _, name := range testName.FindAllStringSubmatch(string(text), -1) {
			named[filepath.Base(manual)]++
			require.True(t, strings.Contains(sources.String(), "func "+name[1]+"("), "%s names %s", manual, name[1])
		}
	}
	for manual, n := range named {
		require.Contains(t, []string{"tests.md", "crash-safety.md", "development.md"}, manual, "names %d tests; users' pages have none", n)
	}
	require.Greater(t, named["tests.md"], 40)
	require.Greater(t, named["crash-safety.md"], 20)
}

var (
	localLink = regexp.MustCompile(`\]\(([^):#]*)(?:#([^)]*))?\)`)
	image     = regexp.MustCompile(` (?:src|srcset)="([^":]*)"`)
	heading   = regexp.MustCompile(`(?m)^#+ (.+)$`)
	notInLink = regexp.MustCompile(`[^a-z0-9_ -]`)
)

// TestLinksOfTheManualsLeadSomewhere follows the links between our own files, to files and to headings.
func TestLinksOfTheManualsLeadSomewhere(t *testing.T) {
	t.Parallel()
	manuals, err := filepath.Glob("../../docs/*.md")
	require.NoError(t, err)
	beside, err := filepath.Glob("../../examples/*/README.md")
	require.NoError(t, err)
	for _, manual := range append(append(manuals, "../../README.md", "../../CONTRIBUTING.md", "../../SECURITY.md"), beside...) {
		text, err := os.ReadFile(manual)
		require.NoError(t, err)
		for _, picture := range image.FindAllStringSubmatch(string(text), -1) {
			require.FileExists(t, filepath.Join(filepath.Dir(manual), picture[1]), manual)
		}
		for _, link := range localLink.FindAllStringSubmatch(string(text), -1) {
			target := manual
			if link[1] != "" {
				target = filepath.Join(filepath.Dir(manual), link[1])
			}
			info, err := os.Stat(target)
			require.NoError(t, err, "%s links to %s", manual, link[0])
			if link[2] == "" || info.IsDir() {
				continue
			}
			linked, err := os.ReadFile(target)
			require.NoError(t, err)
			var anchors []string
			for _, h := range heading.FindAllStringSubmatch(string(linked), -1) {
				anchors = append(anchors, strings.ReplaceAll(notInLink.ReplaceAllString(strings.ToLower(h[1]), ""), " ", "-"))
			}
			require.Contains(t, anchors, link[2], "%s links to %s", manual, link[0])
		}
	}
}
