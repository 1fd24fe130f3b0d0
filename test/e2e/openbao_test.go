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

// notOnOpenBao skips a test of something that OpenBao does differently.
func notOnOpenBao(t *testing.T, why string) {
	t.Helper()
	out, err := exec.Command(server.vault, "version").Output()
	require.NoError(t, err)
	if strings.HasPrefix(string(out), "OpenBao ") {
		t.Skip("SKIPPED on OpenBao: " + why)
	}
}

// TestFindVaultTakesOpenBaoByName: a program that calls itself OpenBao is taken as VAULT_BIN, another isn't.
func TestFindVaultTakesOpenBaoByName(t *testing.T) {
	t.Parallel()
	find := func(version string) (string, error) {
		bao := filepath.Join(t.TempDir(), "bao")
		require.NoError(t, os.WriteFile(bao, []byte("#!/bin/sh\n[ \"$1\" = version ] && echo '"+version+"'\n"), 0o700))
		cmd := exec.Command("../../scripts/find-vault.sh")
		cmd.Env = append(os.Environ(), "VAULT_BIN="+bao)
		out, err := cmd.CombinedOutput()
		return strings.ReplaceAll(string(out), bao, "<bao>"), err
	}
	out, err := find("OpenBao v2.6.1 (1b1c1b), built 2026-10-01T10:00:00Z")
	require.NoError(t, err, out)
	require.Contains(t, out, "OpenBao 2.6.1")
	require.True(t, strings.HasSuffix(out, "\n<bao>\n"), out)
	out, err = find("Consul v1.2.3")
	require.Error(t, err)
	require.Contains(t, out, "does not answer like HashiCorp Vault or OpenBao")
}
