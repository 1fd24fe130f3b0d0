// SPDX-License-Identifier: MPL-2.0

package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/hashicorp/vault/api"
)

const rootToken = "root"

// server is a Vault dev server: in-memory storage, no audit device, logs of errors only.
type server struct {
	client  *api.Client
	process *exec.Cmd
	plugins string
	log     *os.File
}

// startVault starts the binary with copies of the plugins, which are files by plugin name.
func startVault(ctx context.Context, binary, dir string, plugins map[string]string) (*server, error) {
	s := &server{plugins: filepath.Join(dir, "plugins")}
	if err := os.MkdirAll(s.plugins, 0o700); err != nil {
		return nil, err
	}
	for name, file := range plugins {
		if err := copyFile(file, filepath.Join(s.plugins, name)); err != nil {
			return nil, err
		}
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	addr := listener.Addr().String()
	_ = listener.Close()
	if s.log, err = os.Create(filepath.Join(dir, "vault.log")); err != nil {
		return nil, err
	}
	s.process = exec.CommandContext(ctx, binary, "server", "-dev", "-dev-listen-address="+addr, "-dev-root-token-id="+rootToken,
		"-dev-no-store-token", "-dev-plugin-dir="+s.plugins, "-dev-plugin-init=false", "-log-level=error")
	s.process.Env = []string{"HOME=" + dir, "PATH=" + os.Getenv("PATH")}
	s.process.Stdout, s.process.Stderr = s.log, s.log
	if err := s.process.Start(); err != nil {
		return nil, err
	}
	config := api.DefaultConfig()
	config.Address, config.MaxRetries, config.Timeout = "http://"+addr, 0, 10*time.Minute
	if s.client, err = api.NewClient(config); err != nil {
		return nil, err
	}
	s.client.SetToken(rootToken)
	for range 300 {
		if health, err := s.client.Sys().Health(); err == nil && health.Initialized && !health.Sealed {
			return s, s.register(plugins)
		}
		time.Sleep(100 * time.Millisecond)
	}
	return nil, fmt.Errorf("Vault did not start; see %s", s.log.Name())
}

func (s *server) register(plugins map[string]string) error {
	for name := range plugins {
		binary, err := os.ReadFile(filepath.Join(s.plugins, name))
		if err != nil {
			return err
		}
		sum := sha256.Sum256(binary)
		if err := s.client.Sys().RegisterPlugin(&api.RegisterPluginInput{Name: name, Type: api.PluginTypeSecrets, Command: name, SHA256: hex.EncodeToString(sum[:])}); err != nil {
			return fmt.Errorf("register %s: %w", name, err)
		}
	}
	return nil
}

// stop ends Vault in the way that ends its plugins, too, which outlive a Vault that is killed.
func (s *server) stop() {
	_ = s.process.Process.Signal(syscall.SIGTERM)
	kill := time.AfterFunc(30*time.Second, func() { _ = s.process.Process.Kill() })
	_ = s.process.Wait()
	kill.Stop()
	_ = s.log.Close()
}

// mount enables the plugin and writes its config and roles, by their paths below the mount.
func (s *server) mount(path, plugin string, writes []write) error {
	if err := s.client.Sys().Mount(path, &api.MountInput{Type: plugin}); err != nil {
		return fmt.Errorf("mount %s: %w", plugin, err)
	}
	for _, w := range writes {
		if _, err := s.client.Logical().Write(path+"/"+w.path, w.data); err != nil {
			return fmt.Errorf("write %s/%s: %w", path, w.path, err)
		}
	}
	return nil
}

// write is a request that sets up a mount.
type write struct {
	path string
	data map[string]any
}

// residentKB returns the resident memory of the plugin's process in KB, shared pages of its file not counted.
func (s *server) residentKB(plugin string) (int, error) {
	processes, err := filepath.Glob("/proc/[0-9]*/exe")
	if err != nil {
		return 0, err
	}
	for _, exe := range processes {
		if target, err := os.Readlink(exe); err != nil || target != filepath.Join(s.plugins, plugin) {
			continue
		}
		status, err := os.ReadFile(filepath.Join(filepath.Dir(exe), "status"))
		if err != nil {
			return 0, err
		}
		for line := range strings.Lines(string(status)) {
			if value, ok := strings.CutPrefix(line, "RssAnon:"); ok {
				return strconv.Atoi(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(value), "kB")))
			}
		}
	}
	return 0, fmt.Errorf("no process of %s; memory is measured on Linux only", plugin)
}

func copyFile(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o700)
	if err != nil {
		return err
	}
	if _, err := io.Copy(out, in); err != nil {
		_ = out.Close()
		return err
	}
	return out.Close()
}
