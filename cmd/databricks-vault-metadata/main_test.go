// SPDX-License-Identifier: MPL-2.0

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// asCommand is the variable that makes the test binary a command.
const asCommand = "TEST_AS_COMMAND"

var commands = map[string]func(){name: main}

// TestMain keeps the Vault of whoever runs the tests out of them.
func TestMain(m *testing.M) {
	if command := commands[os.Getenv(asCommand)]; command != nil {
		command()
	}
	for _, variable := range []string{"VAULT_ADDR", "VAULT_AGENT_ADDR", "VAULT_PROXY_ADDR", "VAULT_TOKEN", "VAULT_NAMESPACE", "VAULT_WRAP_TTL"} {
		os.Unsetenv(variable)
	}
	os.Setenv("VAULT_MAX_RETRIES", "0")
	// Processes inherit which signals are ignored, as by nohup, but not which are caught.
	for _, s := range []os.Signal{syscall.SIGHUP, syscall.SIGINT, syscall.SIGQUIT} {
		if signal.Ignored(s) {
			signal.Notify(make(chan os.Signal, 1), s)
		}
	}
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
		{[]string{"-json"}, exitUsage, "-json goes with -version"},
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
	stdout.Reset()
	require.Equal(t, exitOK, run([]string{"-version", "-json"}, &stdout, &stderr, nil))
	var said map[string]any
	require.NoError(t, json.Unmarshal(stdout.Bytes(), &said))
	require.Equal(t, name, said["name"])
	require.Equal(t, version, said["version"])
	require.Equal(t, exitOK, run([]string{"-help"}, &stdout, &stderr, nil))
	for _, part := range []string{"-role name", "-mount path", "-token-file file", "-listen address", "-ttl duration", "-scopes scopes", "VAULT_ADDR", "VAULT_TOKEN", "Exit status"} {
		require.Contains(t, stderr.String(), part)
	}
}

// TestASignalAtTheStartRunsNoCommand: the lease that Vault is about to give is revoked.
func TestASignalAtTheStartRunsNoCommand(t *testing.T) {
	s := newVaultServer(t, 3600)
	signals := make(chan os.Signal, 8)
	s.onRead = func(int64) {
		signals <- syscall.SIGTERM
		require.Eventually(t, func() bool { return len(signals) == 0 }, time.Minute, time.Millisecond)
	}
	ran := filepath.Join(t.TempDir(), "ran")
	var stdout, stderr bytes.Buffer
	require.Equal(t, 128+15, run([]string{"-role", "etl", "--", "touch", ran}, &stdout, &stderr, signals), "%s", &stderr)
	require.NoFileExists(t, ran)
	require.Equal(t, []string{"lease-1"}, s.revocations())
}

// process is the test binary as the command.
func process(t *testing.T, args ...string) *exec.Cmd {
	self, err := os.Executable()
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	t.Cleanup(cancel)
	c := exec.CommandContext(ctx, self, args...)
	c.Env = append(os.Environ(), asCommand+"="+name)
	return c
}

// TestWhoeverReadsItsOutputMayGoAway: that ends the service, but not before its lease is revoked.
func TestWhoeverReadsItsOutputMayGoAway(t *testing.T) {
	s := newVaultServer(t, 3600)
	c := process(t, "-role", "etl")
	for _, output := range []*io.Writer{&c.Stdout, &c.Stderr} {
		reader, writer, err := os.Pipe()
		require.NoError(t, err)
		reader.Close()
		defer writer.Close()
		*output = writer
	}
	_ = c.Run()
	require.Equal(t, 1, c.ProcessState.ExitCode())
	require.Equal(t, []string{"lease-1"}, s.revocations())
}

// TestATerminalThatIsClosedMaySaySoTwice: by the kernel and by its shell.
func TestATerminalThatIsClosedMaySaySoTwice(t *testing.T) {
	s := newVaultServer(t, 3600)
	c := process(t, "-role", "etl")
	stdout, err := c.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, c.Start())
	_, err = stdout.Read(make([]byte, 1))
	require.NoError(t, err)
	again := func() {
		_ = c.Process.Signal(syscall.SIGHUP)
		_ = c.Process.Signal(syscall.SIGTERM)
	}
	s.onRevoke.Store(&again)
	require.NoError(t, c.Process.Signal(syscall.SIGHUP))
	require.NoError(t, c.Wait())
	require.Equal(t, []string{"lease-1"}, s.revocations())
}

// TestItOutlivesItsTerminalUnderNohup: the command has what nohup ignores ignored, too.
func TestItOutlivesItsTerminalUnderNohup(t *testing.T) {
	newVaultServer(t, 3600)
	if _, err := exec.LookPath("nohup"); err != nil {
		t.Skip(err)
	}
	c := process(t)
	c.Args = append([]string{"nohup", c.Path}, "-role", "etl", "--", "sh", "-c", "kill -HUP $PPID; kill -HUP $$; echo it lives on")
	var err error
	c.Path, err = exec.LookPath("nohup")
	require.NoError(t, err)
	out, err := c.Output()
	require.NoError(t, err)
	require.Equal(t, "it lives on\n", string(out))
}

func TestARoleIsReadAsTheFlagsNarrowIt(t *testing.T) {
	s := newVaultServer(t, 3600)
	t.Setenv("VAULT_WRAP_TTL", "60")
	var stdout, stderr bytes.Buffer
	require.Equal(t, exitOK, run([]string{"-role", "etl", "-ttl", "30m", "-scopes", "sql,jobs", "--", "true"}, &stdout, &stderr, make(chan os.Signal)))
	require.Equal(t, "scopes=sql%2Cjobs&ttl=30m", s.asked.Load().URL.RawQuery)
	require.Empty(t, s.asked.Load().Header.Get("X-Vault-Wrap-TTL"), "a lease that is wrapped is lost")
	require.Equal(t, []string{"lease-1"}, s.revocations())
}
