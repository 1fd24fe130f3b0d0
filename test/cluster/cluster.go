// SPDX-License-Identifier: MPL-2.0

// Package cluster starts real Vault servers with the plugin, for programs and tests that kill them: one node or three on
// integrated storage, or a dev server in memory.
//
// Everything returns errors, so that programs can use it. What is started ends with Close, and also when the program that started it
// ends in another way: a watchdog process then kills the servers and removes their files.
package cluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/hashicorp/vault/api"
)

// PluginName is the plugin's name in Vault's catalogue, and of its file.
const PluginName = "vault-plugin-secrets-databricks"

// startPatience bounds each step of a start: a server that is not ready by then is not expected to become so.
const startPatience = 90 * time.Second

// Options say what to start. The zero value is one node on integrated storage, with a Vault and a plugin that are found or built.
type Options struct {
	Nodes    int       // on integrated storage; 0 is 1
	Dev      bool      // one dev server in memory instead: quick, and it can't be restarted
	Vault    string    // the binary; "" is what FindVault returns
	Plugin   string    // the binary; "" is built by BuildPlugin
	LogLevel string    // of Vault and the plugin; "" is info
	Env      []string  // added to the environment of the servers, which has nothing of this process's but PATH
	Out      io.Writer // where progress of slow steps is written; nil is nowhere
}

// Cluster is a running cluster. Its methods may be called concurrently, but those of one Node that start and end it may not.
type Cluster struct {
	Nodes     []*Node
	RootToken string

	dir       string
	pluginDir string
	unsealKey string
	options   Options
	transport *http.Transport
	watchdog  *watchdog
}

// Start starts a cluster, unsealed and with the plugin in its catalogue. It unsets the VAULT_ variables of this process but
// VAULT_BIN, since Vault's API client would follow them to another server.
func Start(ctx context.Context, options Options) (*Cluster, error) {
	for _, pair := range os.Environ() {
		if name, _, _ := strings.Cut(pair, "="); strings.HasPrefix(name, "VAULT_") && name != "VAULT_BIN" {
			os.Unsetenv(name)
		}
	}
	dir, err := os.MkdirTemp("", "vc-") // short: the path of a socket in it is limited to about 100 bytes
	if err != nil {
		return nil, err
	}
	c := &Cluster{dir: dir, pluginDir: filepath.Join(dir, "plugins"), options: options, transport: http.DefaultTransport.(*http.Transport).Clone()}
	c.transport.Proxy = nil
	c.transport.MaxIdleConns, c.transport.MaxIdleConnsPerHost = 1024, 1024
	if c.watchdog, err = newWatchdog(dir); err != nil {
		os.RemoveAll(dir)
		return nil, err
	}
	if err := c.start(ctx); err != nil {
		err = fmt.Errorf("%w%s", err, c.logTails())
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

func (c *Cluster) start(ctx context.Context) error {
	for _, dir := range []string{"plugins", "tmp", "home"} {
		if err := os.Mkdir(filepath.Join(c.dir, dir), 0o700); err != nil {
			return err
		}
	}
	if err := c.findBinaries(ctx); err != nil {
		return err
	}
	nodes := max(c.options.Nodes, 1)
	if c.options.Dev {
		nodes = 1
	}
	for i := range nodes {
		node, err := c.newNode(i + 1)
		if err != nil {
			return err
		}
		c.Nodes = append(c.Nodes, node)
		if err := node.launch(); err != nil {
			return err
		}
	}
	if c.options.Dev {
		c.RootToken = devToken
	} else if err := c.form(ctx); err != nil {
		return err
	}
	leader, err := c.AwaitLeader(ctx)
	if err != nil {
		return err
	}
	return c.register(leader)
}

// form initialises the first node, and lets the others join it.
func (c *Cluster) form(ctx context.Context) error {
	first := c.Nodes[0]
	var answer *api.InitResponse
	err := first.await(ctx, func(client *api.Client) (err error) {
		answer, err = client.Sys().InitWithContext(ctx, &api.InitRequest{SecretShares: 1, SecretThreshold: 1})
		return err
	})
	if err != nil {
		return fmt.Errorf("initialising Vault: %w", err)
	}
	c.unsealKey, c.RootToken = answer.KeysB64[0], answer.RootToken
	if err := first.unseal(ctx); err != nil {
		return err
	}
	if len(c.Nodes) == 1 {
		return nil
	}
	if _, err := c.AwaitLeader(ctx); err != nil {
		return err
	}
	for _, node := range c.Nodes[1:] {
		err := node.await(ctx, func(client *api.Client) error {
			answer, err := client.Sys().RaftJoinWithContext(ctx, &api.RaftJoinRequest{LeaderAPIAddr: first.Address})
			if err == nil && !answer.Joined {
				err = errors.New("the node has not joined")
			}
			return err
		})
		if err != nil {
			return fmt.Errorf("joining %s to the cluster: %w", node.Name, err)
		}
		if err := node.unseal(ctx); err != nil {
			return err
		}
	}
	return c.awaitVoters(ctx)
}

// awaitVoters waits until every node has a vote: before, the end of one could end the cluster.
func (c *Cluster) awaitVoters(ctx context.Context) error {
	first := c.Nodes[0]
	// Autopilot gives a vote to who has been healthy for this long; 10 seconds is the default.
	_, err := first.Client().Logical().WriteWithContext(ctx, "sys/storage/raft/autopilot/configuration", map[string]any{"server_stabilization_time": "1s"})
	if err != nil {
		return err
	}
	return first.await(ctx, func(client *api.Client) error {
		answer, err := client.Logical().ReadWithContext(ctx, "sys/storage/raft/configuration")
		if err != nil {
			return err
		}
		config, _ := answer.Data["config"].(map[string]any)
		servers, _ := config["servers"].([]any)
		voters := 0
		for _, server := range servers {
			if fields, ok := server.(map[string]any); ok && fields["voter"] == true {
				voters++
			}
		}
		if voters < len(c.Nodes) {
			return fmt.Errorf("%d of %d nodes have a vote", voters, len(c.Nodes))
		}
		return nil
	})
}

// Mount mounts the plugin.
func (c *Cluster) Mount(ctx context.Context, path string) error {
	leader, err := c.AwaitLeader(ctx)
	if err != nil {
		return err
	}
	return leader.Client().Sys().MountWithContext(ctx, path, &api.MountInput{Type: PluginName})
}

// Leader returns the node that is active now, nil where none is.
func (c *Cluster) Leader(ctx context.Context) *Node {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	for _, node := range c.Nodes {
		if !node.Running() {
			continue
		}
		answer, err := node.Client().Sys().LeaderWithContext(ctx)
		if err == nil && (answer.IsSelf || c.options.Dev && !answer.HAEnabled) {
			return node
		}
	}
	return nil
}

// AwaitLeader waits until a node is active and answers requests.
func (c *Cluster) AwaitLeader(ctx context.Context) (*Node, error) {
	ctx, cancel := context.WithTimeout(ctx, startPatience)
	defer cancel()
	var leader *Node
	err := poll(ctx, func() error {
		if leader = c.Leader(ctx); leader == nil {
			return errors.New("no node is active")
		}
		_, err := leader.Client().Auth().Token().LookupSelfWithContext(ctx)
		return err
	})
	return leader, err
}

// Close kills the servers and removes their files.
func (c *Cluster) Close() error {
	return c.end(true)
}

// CloseKeepingLogs kills the servers, and returns the directory with their logs and storage, which stays.
func (c *Cluster) CloseKeepingLogs() (string, error) {
	return c.dir, c.end(false)
}

func (c *Cluster) end(remove bool) error {
	var errs []error
	for _, node := range c.Nodes {
		if node.Running() {
			errs = append(errs, node.Kill())
		}
		node.hold.release()
	}
	c.transport.CloseIdleConnections()
	c.watchdog.dismiss()
	if remove {
		errs = append(errs, os.RemoveAll(c.dir))
	}
	return errors.Join(errs...)
}

// poll calls ask until it returns nil or the context ends, and then returns the latest error.
func poll(ctx context.Context, ask func() error) error {
	for {
		err := ask()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w (%w)", err, context.Cause(ctx))
		case <-time.After(50 * time.Millisecond):
		}
	}
}
