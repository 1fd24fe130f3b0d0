// SPDX-License-Identifier: MPL-2.0

//go:build e2e

package e2e

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"

	"github.com/hashicorp/vault/api"
	"github.com/stretchr/testify/require"
)

// ownServer is a Vault server of a test's own, with integrated storage on disk, so that it can be ended and started again.
type ownServer struct {
	*vaultServer
	t         *testing.T
	port      int
	config    string // the file
	unsealKey string
}

// newOwnServer starts a server, initialises and unseals it, and registers the plugin. When the test is over, its log is searched
// as that of the shared server is.
func newOwnServer(t *testing.T) *ownServer {
	t.Helper()
	dir := t.TempDir()
	port, err := freePort()
	require.NoError(t, err)
	s := &ownServer{
		t: t, port: port, config: filepath.Join(dir, "vault.hcl"),
		vaultServer: &vaultServer{
			vault: server.vault, env: server.env, pluginDir: server.pluginDir,
			logPath: filepath.Join(dir, "vault.log"), canaries: map[string]string{},
		},
	}
	storage := filepath.Join(dir, "raft")
	require.NoError(t, os.Mkdir(storage, 0o700))
	require.NoError(t, os.WriteFile(s.config, fmt.Appendf(nil, `
		storage "raft" {
			path                   = %q
			node_id                = "one"
			performance_multiplier = 1
		}
		listener "tcp" {
			address     = "127.0.0.1:%d"
			tls_disable = true
		}
		api_addr         = "http://127.0.0.1:%[2]d"
		cluster_addr     = "https://127.0.0.1:%[3]d"
		disable_mlock    = true
		plugin_directory = %[4]q
		log_level        = "trace"
	`, storage, port, port+1, s.pluginDir), 0o600))

	t.Cleanup(func() {
		if s.process != nil {
			s.stop()
			require.NoError(t, s.checkLog())
		}
		if t.Failed() {
			printTail(s.logPath)
		}
	})
	require.NoError(t, s.launch())
	var answer *api.InitResponse
	require.NoError(t, s.await(func(client *api.Client) (err error) {
		answer, err = client.Sys().Init(&api.InitRequest{SecretShares: 1, SecretThreshold: 1})
		return err
	}))
	s.unsealKey = s.secret(answer.Keys[0], "the unseal key")
	s.rootToken = s.secret(answer.RootToken, "the root token")
	s.unseal()
	require.NoError(t, s.register(pluginName, pluginName))
	return s
}

func (s *ownServer) launch() error {
	return s.run("http://127.0.0.1:"+strconv.Itoa(s.port), "-config="+s.config)
}

func (s *ownServer) unseal() {
	s.t.Helper()
	require.NoError(s.t, s.await(func(client *api.Client) error {
		status, err := client.Sys().Unseal(s.unsealKey)
		if err == nil && status.Sealed {
			err = errors.New("Vault is still sealed")
		}
		return err
	}))
	require.NoError(s.t, s.awaitActive())
}

// kill ends the server and the plugin at once, as a power failure does, and answers how to start them again. Until then it keeps
// their ports from being taken by somebody else.
func (s *ownServer) kill() (restart func()) {
	s.t.Helper()
	plugins := s.processesOf(s.t, pluginName)
	require.NotEmpty(s.t, plugins)
	require.NoError(s.t, s.process.Process.Kill())
	<-s.exited
	for _, pid := range plugins {
		_ = syscall.Kill(pid, syscall.SIGKILL) // It may have noticed that the server is gone.
	}
	_ = s.watchdog.Process.Kill()
	_ = s.watchdog.Wait()
	s.process = nil

	var held []net.Listener
	for _, port := range []int{s.port, s.port + 1} {
		listener, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
		require.NoError(s.t, err)
		s.t.Cleanup(func() { listener.Close() })
		held = append(held, listener)
	}
	return func() {
		s.t.Helper()
		for _, listener := range held {
			listener.Close()
		}
		require.NoError(s.t, s.launch())
		s.unseal()
	}
}
