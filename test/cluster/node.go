// SPDX-License-Identifier: MPL-2.0

package cluster

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/hashicorp/vault/api"
)

const devToken = "root-of-the-cluster"

// Node is one server. A dead one keeps its ports, so that it can be started again on them.
type Node struct {
	Name    string
	Address string // http://host:port
	LogPath string // what every process of the node said

	cluster *Cluster
	client  *api.Client
	args    []string
	hold    *heldPorts

	mu      sync.Mutex
	process *exec.Cmd     // nil while the node is dead
	exited  chan struct{} // closed when the process has ended
}

// newNode prepares the files of a node, and reserves its ports.
func (c *Cluster) newNode(number int) (*Node, error) {
	name := "node" + strconv.Itoa(number)
	hold, err := holdPorts()
	if err != nil {
		return nil, err
	}
	listen := net.JoinHostPort("127.0.0.1", strconv.Itoa(hold.port))
	n := &Node{Name: name, Address: "http://" + listen, LogPath: filepath.Join(c.dir, name+".log"), cluster: c, hold: hold}
	if n.client, err = c.newClient(n.Address); err != nil {
		return nil, errors.Join(err, hold.release())
	}
	level := c.options.LogLevel
	if level == "" {
		level = "info"
	}
	if c.options.Dev {
		n.args = []string{
			"server", "-dev", "-dev-listen-address=" + listen, "-dev-root-token-id=" + devToken, "-dev-no-store-token",
			"-dev-plugin-dir=" + c.pluginDir, "-dev-plugin-init=false", "-log-level=" + level,
		}
		return n, nil
	}
	storage := filepath.Join(c.dir, name)
	config := storage + ".hcl"
	n.args = []string{"server", "-config=" + config}
	err = os.WriteFile(config, fmt.Appendf(nil, `
		storage "raft" {
			path                   = %q
			node_id                = %q
			performance_multiplier = 1
		}
		listener "tcp" {
			address     = %q
			tls_disable = true
		}
		api_addr         = %q
		cluster_addr     = "https://127.0.0.1:%d"
		disable_mlock    = true
		plugin_directory = %q
		log_level        = %q
	`, storage, name, listen, n.Address, hold.port+1, c.pluginDir, level), 0o600)
	return n, errors.Join(err, os.Mkdir(storage, 0o700))
}

// launch starts the process of the server. Its plugins are in its process group.
func (n *Node) launch() error {
	log, err := os.OpenFile(n.LogPath, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	dir := n.cluster.dir
	cmd := exec.Command(n.cluster.options.Vault, n.args...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + filepath.Join(dir, "home"), "TMPDIR=" + filepath.Join(dir, "tmp")}, n.cluster.options.Env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	n.mu.Lock()
	defer n.mu.Unlock()
	if err := n.hold.release(); err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("starting Vault: %w", err)
	}
	n.process, n.exited = cmd, make(chan struct{})
	n.cluster.watchdog.started(cmd.Process.Pid)
	go func(exited chan struct{}) {
		_ = cmd.Wait()
		close(exited)
	}(n.exited)
	return nil
}

// Running reports whether the node was started and not killed since.
func (n *Node) Running() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.process != nil
}

// Pid is the id of the server's process, 0 while the node is dead.
func (n *Node) Pid() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.process == nil {
		return 0
	}
	return n.process.Process.Pid
}

// Kill ends the server and its plugins at once with SIGKILL, as a power failure does. Until it is started again, its ports refuse
// connections and can't be taken by others.
func (n *Node) Kill() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.process == nil {
		return errors.New(n.Name + " is not running")
	}
	pid := n.process.Process.Pid
	if err := syscall.Kill(-pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
		return fmt.Errorf("killing %s: %w", n.Name, err)
	}
	<-n.exited
	n.process = nil
	n.cluster.watchdog.ended(pid)
	return n.hold.take()
}

// KillPlugin ends the processes of the plugin with SIGKILL and returns how many there were. Only the active node has any.
func (n *Node) KillPlugin() (int, error) {
	pids, err := n.PluginPids()
	if err != nil {
		return 0, err
	}
	killed := 0
	for _, pid := range pids {
		if err := syscall.Kill(pid, syscall.SIGKILL); err == nil {
			killed++
		}
	}
	return killed, nil
}

// PluginPids are the ids of the processes of the plugin.
func (n *Node) PluginPids() ([]int, error) {
	pid := n.Pid()
	if pid == 0 {
		return nil, nil
	}
	return childrenRunning(pid, PluginName)
}

// Restart starts a killed node again, and unseals it. It returns before the node, or another one, is active: see AwaitLeader.
func (n *Node) Restart(ctx context.Context) error {
	if n.cluster.options.Dev {
		return errors.New("a dev server forgets everything when it ends, so it can't be restarted")
	}
	if n.Running() {
		return errors.New(n.Name + " is running")
	}
	if err := n.launch(); err != nil {
		return err
	}
	return n.unseal(ctx)
}

// StepDown makes the active node a standby, and returns when it is.
func (n *Node) StepDown(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startPatience)
	defer cancel()
	if err := n.Client().Sys().StepDownWithContext(ctx); err != nil {
		return err
	}
	return poll(ctx, func() error {
		answer, err := n.Client().Sys().LeaderWithContext(ctx)
		if err == nil && answer.IsSelf {
			err = errors.New(n.Name + " is still active")
		}
		return err
	})
}

// unseal sends the key once: a node that is joining answers that it is sealed and goes on by itself, and a second key would make it
// unseal itself twice, which leaves it with a state that no step-down ends.
func (n *Node) unseal(ctx context.Context) error {
	err := n.await(ctx, func(client *api.Client) error {
		_, err := client.Sys().UnsealWithContext(ctx, n.cluster.unsealKey)
		return err
	})
	if err == nil {
		err = n.await(ctx, func(client *api.Client) error {
			status, err := client.Sys().SealStatusWithContext(ctx)
			if err == nil && status.Sealed {
				err = errors.New("the node is still sealed")
			}
			return err
		})
	}
	if err != nil {
		return fmt.Errorf("unsealing %s: %w", n.Name, err)
	}
	return nil
}

// await asks the node until it answers without an error. It gives up when the process has ended.
func (n *Node) await(ctx context.Context, ask func(*api.Client) error) error {
	ctx, cancel := context.WithTimeout(ctx, startPatience)
	defer cancel()
	n.mu.Lock()
	exited := n.exited
	n.mu.Unlock()
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	go func() {
		select {
		case <-exited:
			stop(fmt.Errorf("the process of %s has ended", n.Name))
		case <-ctx.Done():
		}
	}()
	return poll(ctx, func() error { return ask(n.Client()) })
}

// Client returns an API client of the node, with the root token. It asks once: what the caller sees is the server's first answer.
func (n *Node) Client() *api.Client {
	client, err := n.client.Clone()
	if err != nil { // It was possible once, with the same configuration.
		panic(err)
	}
	client.SetToken(n.cluster.RootToken)
	return client
}

func (c *Cluster) newClient(address string) (*api.Client, error) {
	config := api.DefaultConfig()
	if config.Error != nil {
		return nil, config.Error
	}
	config.Address, config.MaxRetries, config.Timeout = address, 0, 2*time.Minute
	config.HttpClient.Transport = c.transport
	return api.NewClient(config)
}
