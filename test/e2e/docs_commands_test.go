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

	"vault-plugin-secrets-databricks/internal/simulator"
)

var (
	consoleBlock = regexp.MustCompile("(?s)```console\\n(.*?)```")
	lineGoesOn   = regexp.MustCompile(`\\\n *`)
	fieldOf      = regexp.MustCompile(`(?m)^([a-z_]+)  +\S`)
)

const (
	documentedApplicationID = "6f5ccf28-d83a-4957-9bfb-5bbfac551410"
	fieldsLeftOut           = "(some fields left out)"
)

// typed is a command of a manual, the answer that the manual shows, and what Vault answered.
type typed struct{ line, shown, said string }

// manual types the console commands of one page.
type manual struct {
	*mount
	t       *testing.T
	dir     string // the working directory
	env     []string
	asHere  []string // pairs of texts: as in the manual, as here
	stdin   string
	replace func(line string) string // nil, or for what is known only when a command is typed
}

func newManual(t *testing.T, m *mount, asHere ...string) *manual {
	t.Helper()
	bin := t.TempDir()
	require.NoError(t, os.Symlink(server.vault, filepath.Join(bin, "vault")))
	return &manual{
		mount: m, t: t, dir: t.TempDir(),
		env: []string{
			"HOME=" + t.TempDir(), "PATH=" + bin + string(os.PathListSeparator) + os.Getenv("PATH"),
			"VAULT_ADDR=" + server.addr, "VAULT_TOKEN=" + server.rootToken,
		},
		asHere: append(asHere, "secrets disable databricks", "secrets disable "+m.path, "databricks/", m.path+"/"),
	}
}

// commandsOf reads the console commands of a text, with the answers that it shows.
func commandsOf(text string) (commands []typed) {
	for _, block := range consoleBlock.FindAllStringSubmatch(text, -1) {
		for _, part := range strings.Split("\n"+lineGoesOn.ReplaceAllString(block[1], ""), "\n$ ")[1:] {
			line, shown, _ := strings.Cut(part, "\n")
			line, _, _ = strings.Cut(line, "  #")
			commands = append(commands, typed{line: strings.TrimSpace(line), shown: shown})
		}
	}
	return commands
}

// section returns what follows a heading of a page, up to the next heading of the second level.
func section(t *testing.T, page, heading string) string {
	t.Helper()
	_, after, found := strings.Cut(readPage(t, page), heading+"\n")
	require.True(t, found, "%s has %q", page, heading)
	after, _, _ = strings.Cut(after, "\n## ")
	return after
}

// typeIn types a command as the manual has it, and compares the fields of the answer with those that the manual shows: all, unless it says
// that it leaves some out.
func (p *manual) typeIn(c typed) typed {
	p.t.Helper()
	line := strings.NewReplacer(p.asHere...).Replace(c.line)
	if p.replace != nil {
		line = p.replace(line)
	}
	cmd := exec.Command("sh", "-c", line)
	cmd.Dir, cmd.Env, cmd.Stdin = p.dir, p.env, strings.NewReader(p.stdin)
	out, err := cmd.CombinedOutput()
	require.NoError(p.t, err, "%s\n%s", c.line, out)
	c.said = string(out)
	for _, secret := range anySecret.FindAllString(c.said, -1) {
		server.secret(secret, "a credential that a manual shows")
	}
	fields := func(answer string) (names []string) {
		for _, field := range fieldOf.FindAllStringSubmatch(answer, -1) {
			names = append(names, field[1])
		}
		return names
	}
	shown := fields(c.shown)
	switch {
	case len(shown) == 0:
	case strings.Contains(c.shown, fieldsLeftOut):
		require.Subset(p.t, fields(c.said), shown, c.line)
		require.Greater(p.t, len(fields(c.said)), len(shown), c.line)
	default:
		require.ElementsMatch(p.t, shown, fields(c.said), c.line)
	}
	for _, words := range []string{"WARNING!", "was made by hand", "nothing replaces", "The run goes on"} {
		if strings.Contains(c.shown, words) {
			require.Contains(p.t, strings.Join(strings.Fields(c.said), " "), words, c.line)
		}
	}
	return c
}

// typeAll types all commands of a text in their order.
func (p *manual) typeAll(text string) (done []typed) {
	p.t.Helper()
	for _, c := range commandsOf(text) {
		done = append(done, p.typeIn(c))
	}
	return done
}

func readPage(t *testing.T, page string) string {
	t.Helper()
	text, err := os.ReadFile(page)
	require.NoError(t, err)
	return string(text)
}

// TestCommandsOfTheReadme goes through the first ten minutes: the plugin is installed and registered under another name, since the
// server has it already.
func TestCommandsOfTheReadme(t *testing.T) {
	t.Parallel()
	readme := readPage(t, "../../README.md")
	makefile := readPage(t, "../../Makefile")
	m := &mount{t: t, server: server, path: "of-the-readme", workspace: simulator.New()} // which the commands enable
	t.Cleanup(m.workspace.Close)
	var err error
	m.client, err = server.client(server.rootToken)
	require.NoError(t, err)
	engine := m.workspace.AddServicePrincipal("engine", true)
	secretID, secret := m.workspace.AddOAuthSecret(engine, 0)
	server.secret(secret, "the configured client secret of "+t.Name())
	apiKey := server.secret("typed-as-the-readme-says", "a secret")

	name := pluginName + "-of-the-readme"
	installed := filepath.Join(server.pluginDir, name)
	p := newManual(t, m,
		"/etc/vault/plugins/"+pluginName, installed,
		"bin/"+pluginName, "bin/"+pluginName,
		"-path=databricks ", "-path="+m.path+" ",
		pluginName, name,
		"https://dbc-a1b2c3d4-e5f6.cloud.databricks.com", m.workspace.URL(),
		"0f3c1a52-7c53-4c8e-8d77-3f2f5a0f5f11", engine.ApplicationID,
	)
	p.stdin = secret
	p.env = append(p.env, "API_KEY="+apiKey)
	require.NoError(t, os.Mkdir(filepath.Join(p.dir, "bin"), 0o755))
	require.NoError(t, os.Symlink(filepath.Join(server.pluginDir, pluginName), filepath.Join(p.dir, "bin", pluginName)))
	t.Cleanup(func() { _ = m.client.Sys().Unmount(m.path) })

	lease := ""
	var install typed
	p.replace = func(line string) string {
		return strings.ReplaceAll(line, m.path+"/creds/etl/eYkP1TzBkY5M9oSfl6T0ZcJH", lease)
	}
	for _, c := range commandsOf(readme) {
		if target, ok := strings.CutPrefix(c.line, "make "); ok {
			require.Regexp(t, `(?m)^`+target+`:.* ##`, makefile)
			continue
		}
		done := p.typeIn(c)
		switch {
		case strings.HasPrefix(c.line, "install "):
			install = c
		case c.line == "vault read databricks/creds/etl":
			found := regexp.MustCompile(`(?m)^lease_id +(\S+)$`).FindStringSubmatch(done.said)
			require.NotNil(t, found, done.said)
			lease = found[1]
			require.Len(t, m.workspace.Tokens(), 1)
		case strings.HasPrefix(c.line, "vault lease revoke "):
			require.Empty(t, m.workspace.Tokens())
		}
	}
	require.NotEmpty(t, lease)
	stored, _ := m.value("etl", "api-key")
	require.Equal(t, apiKey, stored)
	config := m.read("config")
	require.NotEqual(t, secretID, config["credential_id"])
	require.NotEmpty(t, config["credential_id"])
	require.NotNil(t, config["next_vault_rotation"])
	require.NotEmpty(t, processesOf(t, name))
	p.typeIn(install) // over the running plugin
}

// TestCommandsOfTheRotationManual types the commands of docs/rotation.md.
func TestCommandsOfTheRotationManual(t *testing.T) {
	t.Parallel()
	m := newConfiguredMount(t)
	sp := m.workspace.AddServicePrincipal("dash", false)
	p := newManual(t, m, documentedApplicationID, sp.ApplicationID, "033a2607…", m.tokenID)
	require.Greater(t, len(p.typeAll(readPage(t, "../../docs/rotation.md"))), 9)
	require.False(t, m.works(m.token), "the manual says how to delete what was made by hand")
	require.Empty(t, m.keys("static-roles"))
	require.Empty(t, m.workspace.OAuthSecrets(sp))
}

// TestCommandsOfTheTidyManual types the commands of docs/tidy.md.
func TestCommandsOfTheTidyManual(t *testing.T) {
	t.Parallel()
	m := newConfiguredMount(t)
	require.Len(t, newManual(t, m).typeAll(readPage(t, "../../docs/tidy.md")), 3)
	require.Equal(t, "finished", m.awaitTidy()["state"])
}

// TestCommandsThatRemoveAMount types the commands of docs/removing-a-mount.md on a mount with everything that has to end, which mints until its
// config is deleted.
func TestCommandsThatRemoveAMount(t *testing.T) {
	t.Parallel()
	const page = "../../docs/removing-a-mount.md"
	t.Run("in order", func(t *testing.T) {
		t.Parallel()
		m := newMountToRemove(t)
		p := newManual(t, m)
		revoked := 0
		for _, c := range commandsOf(section(t, page, "# Removing a mount")) {
			done := p.typeIn(c)
			if strings.HasPrefix(c.line, "vault list ") {
				require.Contains(t, done.said, "dash")
			}
			if strings.HasPrefix(c.line, "vault lease revoke ") {
				if revoked++; revoked == 1 {
					require.Empty(t, m.stored("etl"))
					m.mint("etl")
				}
			}
		}
		require.Equal(t, 2, revoked)
		m.requireDisabled()
		require.Equal(t, []string{m.tokenID}, m.tokenIDs(), "what an operator created is left, and nothing else")
		require.Empty(t, m.workspace.ServicePrincipals())
		require.Empty(t, m.permission("etl", "engineers"))
	})
	t.Run("by force", func(t *testing.T) {
		t.Parallel()
		m := newMountToRemove(t)
		m.delete("static-roles/dash")
		m.deleteConfigByForce()
		p := newManual(t, m)
		require.Error(t, m.client.Sys().Unmount(m.path), "the config is needed for the leases")
		_, err := m.tryWrite("config", data{"host": m.workspace.URL(), "token": m.token})
		requireRefused(t, err, 404, "route entry is tainted")
		require.Len(t, p.typeAll(section(t, page, "## A mount that can't be disabled")), 2)
		m.requireDisabled()
	})
}

// newMountToRemove has a rotated credential, a static role, and leases of what ends by itself and of what does not.
func newMountToRemove(t *testing.T) *mount {
	t.Helper()
	m := withScope(t)
	m.workspace.AddGroup("engineers")
	m.write("roles/own", data{"credential_type": "service_principal"})
	m.write("static-roles/dash", data{"credential_type": "pat", "rotation_period": "168h"})
	m.write("config/rotate-root", nil)
	m.write("secrets/etl/leased", data{"string_value": server.secret("leased-before-the-mount-goes", "a secret"), "ttl": "1h"})
	m.write("acls/etl/engineers", data{"permission": "READ", "ttl": "1h"})
	m.mint("etl")
	m.mint("own")
	return m
}

func (m *mount) requireDisabled() {
	m.t.Helper()
	mounts, err := m.client.Sys().ListMounts()
	require.NoError(m.t, err)
	require.NotContains(m.t, mounts, m.path+"/")
}
