// SPDX-License-Identifier: MPL-2.0

package main

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestMain keeps the Vault of whoever runs the tests out of them.
func TestMain(m *testing.M) {
	for _, variable := range []string{"VAULT_ADDR", "VAULT_AGENT_ADDR", "VAULT_PROXY_ADDR", "VAULT_TOKEN", "VAULT_NAMESPACE"} {
		os.Unsetenv(variable)
	}
	os.Setenv("VAULT_MAX_RETRIES", "0")
	os.Exit(m.Run())
}

func TestMistakesAreSaidBeforeVaultIsAsked(t *testing.T) {
	notExecutable := filepath.Join(t.TempDir(), "script")
	require.NoError(t, os.WriteFile(notExecutable, []byte("#!/bin/sh\n"), 0o600))
	t.Setenv("VAULT_ADDR", "http://127.0.0.1:1")
	for _, c := range []struct {
		args   []string
		status int
		says   string
	}{
		{nil, exitUsage, "-role must be the name of a role"},
		{[]string{"-role", "a/b"}, exitUsage, "-role must be the name of a role"},
		{[]string{"-rolle", "etl"}, exitUsage, "flag provided but not defined"},
		{[]string{"-role", "etl", "-listen", "0.0.0.0:80"}, exitUsage, "must be 127.0.0.1 or localhost"},
		{[]string{"-role", "etl", "--", "no-such-command"}, exitNotFound, "no-such-command"},
		{[]string{"-role", "etl", "--", notExecutable}, exitNotExecutable, "permission denied"},
		{[]string{"-role", "etl", "-token-file", notExecutable + "-not"}, exitFailed, "the Vault token can't be read"},
		{[]string{"-role", "etl"}, exitFailed, "Check VAULT_ADDR"},
	} {
		var stdout, stderr bytes.Buffer
		require.Equal(t, c.status, run(c.args, &stdout, &stderr, make(chan os.Signal)), "%v", c.args)
		require.Contains(t, stderr.String(), c.says)
		require.Empty(t, stdout.String())
	}
}

func TestVersionAndHelp(t *testing.T) {
	var stdout, stderr bytes.Buffer
	require.Equal(t, exitOK, run([]string{"-version"}, &stdout, &stderr, nil))
	require.Equal(t, name+" "+version+"\n", stdout.String())
	require.Equal(t, exitOK, run([]string{"-help"}, &stdout, &stderr, nil))
	for _, part := range []string{"-role name", "-mount path", "-token-file file", "-listen address", "VAULT_ADDR", "VAULT_TOKEN", "Exit status"} {
		require.Contains(t, stderr.String(), part)
	}
}
