// SPDX-License-Identifier: MPL-2.0

//go:build e2e

package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"
	"github.com/stretchr/testify/require"
)

// newOwnPlugin registers a copy of the plugin under a name of its own, with variables of the form NAME=value, and returns
// the name: Vault runs it in a process of its own, which a test may end without disturbing the others.
func newOwnPlugin(t *testing.T, env ...string) string {
	t.Helper()
	name := pluginName + "-" + strings.Trim(notInPaths.ReplaceAllString(strings.ToLower(t.Name()), "-"), "-")
	require.NoError(t, copyFile(filepath.Join(server.pluginDir, pluginName), filepath.Join(server.pluginDir, name)))
	require.NoError(t, server.register(name, name, env...))
	return name
}

// processesOf gives the ids of the children of the shared server that run a file of the plugin directory.
func processesOf(t *testing.T, file string) []int {
	t.Helper()
	return server.processesOf(t, file)
}

func (s *vaultServer) processesOf(t *testing.T, file string) []int {
	t.Helper()
	table := processTable(t)
	var pids []int
	for line := range strings.Lines(table) {
		fields := strings.Fields(line)
		if len(fields) < 3 || fields[1] != strconv.Itoa(s.process.Process.Pid) || filepath.Base(fields[2]) != file {
			continue
		}
		pid, err := strconv.Atoi(fields[0])
		require.NoError(t, err)
		pids = append(pids, pid)
	}
	return pids
}

// processTable has a line "<pid> <parent's pid> <command>" for every process of the system.
func processTable(t *testing.T) string {
	t.Helper()
	statuses, _ := filepath.Glob("/proc/[0-9]*/stat")
	if len(statuses) == 0 {
		out, err := exec.Command("ps", "-axo", "pid=,ppid=,command=").Output()
		if err != nil {
			t.Skipf("this test needs /proc or ps to find the plugin's process: %v", err)
		}
		return string(out)
	}
	var table strings.Builder
	for _, path := range statuses {
		stat, statErr := os.ReadFile(path)
		command, commandErr := os.ReadFile(filepath.Join(filepath.Dir(path), "cmdline"))
		if statErr != nil || commandErr != nil || len(command) == 0 {
			continue // The process has ended meanwhile, or has no command since it is a zombie or the kernel's own.
		}
		// The second field is a name in parentheses that may hold anything; the parent is the second field after it.
		_, rest, _ := strings.Cut(string(stat[strings.LastIndexByte(string(stat), ')'):]), " ")
		program, _, _ := strings.Cut(string(command), "\x00")
		fmt.Fprintln(&table, filepath.Base(filepath.Dir(path)), strings.Fields(rest)[1], program)
	}
	return table.String()
}

// killPlugin ends the process that serves the plugin, and waits until Vault has noticed: it may find the process gone before it finds
// the connection closed, and a request in between is answered with an error.
func (m *mount) killPlugin(plugin string) {
	m.t.Helper()
	before := m.server.processesOf(m.t, plugin)
	require.Len(m.t, before, 1)
	require.NoError(m.t, syscall.Kill(before[0], syscall.SIGKILL))
	require.Eventually(m.t, func() bool {
		_, err := m.client.Logical().Read(m.path + "/status")
		now := m.server.processesOf(m.t, plugin)
		return err == nil && len(now) == 1 && now[0] != before[0]
	}, patience, 50*time.Millisecond)
}

func TestKilledPluginProcessIsBackForTheNextRequest(t *testing.T) {
	t.Parallel()
	plugin := newOwnPlugin(t)
	m := newMountOf(t, plugin)
	m.configure()
	secret := m.mint("etl")

	pids := processesOf(t, plugin)
	require.Len(t, pids, 1, "one process serves the plugin")
	m.killPlugin(plugin)

	require.True(t, m.works(tokenOf(m.mint("etl"))))
	require.NotEqual(t, pids, processesOf(t, plugin))
	m.revoke(secret)
	require.False(t, m.works(tokenOf(secret)), "a lease outlives the process that made it")
}

func TestReloadedPluginKeepsConfigAndLeases(t *testing.T) {
	t.Parallel()
	plugin := newOwnPlugin(t)
	m := newMountOf(t, plugin)
	m.configure()
	secret := m.mint("etl")
	before := processesOf(t, plugin)
	m.workspace.ResetCalls()

	_, err := m.client.Sys().ReloadPlugin(&api.ReloadPluginInput{Plugin: plugin})
	require.NoError(t, err)
	require.NotEqual(t, before, processesOf(t, plugin))
	require.Empty(t, m.workspace.Calls(), "a reload asks nothing of Databricks")

	require.True(t, m.works(tokenOf(m.mint("etl"))))
	m.revoke(secret)
	require.False(t, m.works(tokenOf(secret)))
}

func TestManyMountsShareOneProcess(t *testing.T) {
	t.Parallel()
	plugin := newOwnPlugin(t)
	for _, name := range []string{"first", "second", "third"} {
		t.Run(name, func(t *testing.T) {
			m := newMountOf(t, plugin)
			m.configure()
			require.True(t, m.works(tokenOf(m.mint("etl"))))
			require.Len(t, processesOf(t, plugin), 1)
		})
	}
}

func TestPluginProcessInheritsTheBaitedEnvironment(t *testing.T) {
	t.Parallel()
	plugin := newOwnPlugin(t)
	m := newMountOf(t, plugin)
	m.configure()
	pids := processesOf(t, plugin)
	require.Len(t, pids, 1)
	environment, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pids[0]), "environ"))
	if err != nil {
		t.Skipf("this system does not show the environment of a process: %v", err)
	}
	// If Vault stopped handing its environment on, the trap would prove nothing.
	require.Contains(t, string(environment), "DATABRICKS_HOST=http://127.0.0.1:")
	require.Contains(t, string(environment), "DATABRICKS_METADATA_SERVICE_URL=")
}
