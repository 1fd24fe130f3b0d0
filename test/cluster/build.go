// SPDX-License-Identifier: MPL-2.0

package cluster

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/hashicorp/vault/api"
)

// Build says how the plugin is built.
type Build struct {
	LDFlags string
	Race    bool // with the race detector, which needs a C compiler
}

// FindVault returns the path of a Vault binary: $VAULT_BIN, or what scripts/find-vault.sh finds or builds.
func FindVault(ctx context.Context) (string, error) {
	root, err := moduleRoot(ctx)
	if err != nil {
		return "", err
	}
	find := exec.CommandContext(ctx, filepath.Join(root, "scripts", "find-vault.sh"))
	find.Stderr = os.Stderr
	out, err := find.Output()
	if err != nil {
		return "", fmt.Errorf("no Vault found: %w", err)
	}
	return strings.TrimSpace(string(out)), nil
}

// BuildPlugin builds the plugin of the working tree into a directory, and returns the path of the file.
func BuildPlugin(ctx context.Context, dir string, how Build) (string, error) {
	root, err := moduleRoot(ctx)
	if err != nil {
		return "", err
	}
	target := filepath.Join(dir, PluginName)
	args := []string{"build", "-buildvcs=false", "-ldflags", how.LDFlags, "-o", target}
	if how.Race {
		args = append(args, "-race")
	}
	build := exec.CommandContext(ctx, "go", append(args, "./cmd/"+PluginName)...)
	build.Dir = root
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("building the plugin: %w\n%s", err, out)
	}
	return target, nil
}

// moduleRoot is the directory of the module that the program is run in.
func moduleRoot(ctx context.Context) (string, error) {
	out, err := exec.CommandContext(ctx, "go", "env", "GOMOD").Output()
	if err != nil {
		return "", fmt.Errorf("go env GOMOD: %w", err)
	}
	file := strings.TrimSpace(string(out))
	if file == "" || file == os.DevNull {
		return "", errors.New("run this inside the module's directory: it builds the plugin from there")
	}
	return filepath.Dir(file), nil
}

// findBinaries sees to it that there is a Vault, and the plugin in the plugin directory.
func (c *Cluster) findBinaries(ctx context.Context) (err error) {
	if c.options.Vault == "" {
		if c.options.Vault, err = FindVault(ctx); err != nil {
			return err
		}
	}
	if c.options.Plugin == "" {
		_, err = BuildPlugin(ctx, c.pluginDir, Build{})
		return err
	}
	content, err := os.ReadFile(c.options.Plugin)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(c.pluginDir, PluginName), content, 0o755)
}

// register puts the plugin into Vault's catalogue.
func (c *Cluster) register(leader *Node) error {
	content, err := os.ReadFile(filepath.Join(c.pluginDir, PluginName))
	if err != nil {
		return err
	}
	sum := sha256.Sum256(content)
	_, err = leader.Client().Sys().RegisterPluginDetailed(&api.RegisterPluginInput{
		Name: PluginName, Type: api.PluginTypeSecrets, Command: PluginName, SHA256: hex.EncodeToString(sum[:]),
	})
	return err
}

// Failures are the lines of the nodes' logs that tell of a panic or of a data race. Nothing else in them is a failure: servers that
// are killed complain.
func (c *Cluster) Failures() ([]string, error) {
	var found []string
	for _, node := range c.Nodes {
		log, err := os.Open(node.LogPath)
		if err != nil {
			return nil, err
		}
		defer log.Close()
		lines := bufio.NewScanner(log)
		lines.Buffer(nil, 1<<20)
		for lines.Scan() {
			for _, sign := range []string{"panic: ", "recovered from a panic", "WARNING: DATA RACE", "fatal error: "} {
				if strings.Contains(lines.Text(), sign) {
					found = append(found, node.Name+": "+lines.Text())
				}
			}
		}
		if err := lines.Err(); err != nil {
			return nil, err
		}
	}
	return found, nil
}

// logTails are the last lines of each node's log, for the message of a failed start.
func (c *Cluster) logTails() string {
	var tails strings.Builder
	for _, node := range c.Nodes {
		content, _ := os.ReadFile(node.LogPath)
		lines := strings.Split(strings.TrimSpace(string(content)), "\n")
		fmt.Fprintf(&tails, "\nthe end of the log of %s:\n%s", node.Name, strings.Join(lines[max(0, len(lines)-20):], "\n"))
	}
	return tails.String()
}
