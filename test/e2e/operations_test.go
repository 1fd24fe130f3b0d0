// SPDX-License-Identifier: MPL-2.0

//go:build e2e

package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestCommandsOfTheOperationsManual types the blocks of docs/operations.md in their order, and compares what they answer where the manual
// shows it.
func TestCommandsOfTheOperationsManual(t *testing.T) {
	t.Parallel()
	m := newMountOf(t, newOwnPlugin(t)) // the manual reloads it
	m.configure()
	m.write("static-roles/dash", data{"credential_type": "pat", "rotation_period": "24h"})
	leaked := m.mint("etl")
	m.mint("etl")
	second, _ := m.workspace.AddToken(m.admin, "by hand", 0)
	manual, err := os.ReadFile("../../docs/operations.md")
	require.NoError(t, err)
	bin, home := t.TempDir(), t.TempDir()
	require.NoError(t, os.Symlink(server.vault, filepath.Join(bin, "vault")))
	asHere := strings.NewReplacer(
		"databricks/tokens/…", "", "rate-limit/databricks", "rate-limit/"+m.path, "databricks-monitor", m.path+"-monitor",
		"databricks/", m.path+"/", "https://dbc-a1b2c3d4-e5f6.cloud.databricks.com", m.workspace.URL(),
	)
	env := []string{
		"HOME=" + home, "PATH=" + bin + string(os.PathListSeparator) + os.Getenv("PATH"), "VAULT_ADDR=" + server.addr, "VAULT_TOKEN=" + server.rootToken,
		"LEAKED=" + server.secret(tokenOf(leaked), "a leaked token"), "TOKEN=" + server.secret(second, "another token of the engine"),
	}
	var blocks []string
	for _, block := range consoleBlock.FindAllStringSubmatch(string(manual), -1) {
		blocks = append(blocks, block[1])
	}
	require.Greater(t, len(blocks), 8)
	for _, block := range blocks {
		typeBlock(t, home, env, asHere, block)
		if strings.Contains(block, "LEAKED") {
			require.False(t, m.works(tokenOf(leaked)))
		}
	}
}

// typeBlock runs a block as one script, in which each command must succeed, and requires the answers that it shows.
func typeBlock(t *testing.T, home string, env []string, asHere *strings.Replacer, block string) {
	t.Helper()
	script, answers := "set -e\n", []string{}
	heredoc := ""
	for line := range strings.Lines(lineGoesOn.ReplaceAllString(block, "")) {
		line = strings.TrimSuffix(line, "\n")
		switch command, typed := strings.CutPrefix(line, "$ "); {
		case heredoc != "":
			script += line + "\n"
			if line == heredoc {
				heredoc = ""
			}
		case typed:
			script += command + "\n"
			if strings.Contains(command, "EOF") {
				heredoc = "EOF"
			}
		default:
			answers = append(answers, line)
		}
	}
	cmd := exec.Command("sh", "-c", asHere.Replace(script))
	cmd.Env, cmd.Dir = env, home
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s\n%s", script, out)
	for _, answer := range answers {
		require.Contains(t, string(out), asHere.Replace(answer), script)
	}
}
