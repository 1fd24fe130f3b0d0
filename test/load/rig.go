// SPDX-License-Identifier: MPL-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"

	"github.com/hashicorp/vault/api"

	"vault-plugin-secrets-databricks/internal/simulator"
	"vault-plugin-secrets-databricks/test/cluster"
)

// mountPath is where the engine is mounted.
const mountPath = "databricks"

// rig is a Vault dev server with the plugin mounted, and connected to a simulated workspace in this process.
type rig struct {
	workspace *simulator.Workspace
	admin     simulator.Principal // the identity of the engine
	ownToken  string              // id of the engine's own token
	cluster   *cluster.Cluster
	vault     *api.Client
}

// newRig starts both. The workspace allows as many tokens as are asked for.
func newRig(ctx context.Context, options ...simulator.Option) (*rig, error) {
	workspace, err := simulator.Start(append(options, simulator.WithoutCallLog(), simulator.WithTokenQuota(1<<30))...)
	if err != nil {
		return nil, err
	}
	r := &rig{workspace: workspace, admin: workspace.AddUser("engine@example.com", true)}
	token, id := workspace.AddToken(r.admin, "of the engine", 0)
	r.ownToken = id
	r.cluster, err = cluster.Start(ctx, cluster.Options{Dev: true, LogLevel: "warn", Out: os.Stderr})
	if err != nil {
		workspace.Close()
		return nil, err
	}
	r.vault = r.cluster.Nodes[0].Client()
	err = r.cluster.Mount(ctx, mountPath)
	if err == nil {
		_, err = r.write(ctx, mountPath+"/config", map[string]any{"host": workspace.URL(), "token": token})
	}
	if err != nil {
		return nil, errors.Join(err, r.close(false))
	}
	return r, nil
}

// close ends both. It keeps the log of Vault if asked to, and says where it is.
func (r *rig) close(keepLog bool) error {
	defer r.workspace.Close()
	if !keepLog {
		return r.cluster.Close()
	}
	_, err := r.cluster.CloseKeepingLogs()
	fmt.Fprintln(os.Stderr, "the log of Vault is", r.cluster.Nodes[0].LogPath)
	return err
}

// write writes to a path of Vault, and returns an error that names it.
func (r *rig) write(ctx context.Context, path string, data map[string]any) (*api.Secret, error) {
	secret, err := r.vault.Logical().WriteWithContext(ctx, path, data)
	if err != nil {
		return nil, fmt.Errorf("writing %s: %w", path, err)
	}
	return secret, nil
}

// mint reads credentials of a role, and returns the id of the lease.
func (r *rig) mint(ctx context.Context, role string) (lease string, err error) {
	secret, err := r.vault.Logical().ReadWithContext(ctx, mountPath+"/creds/"+role)
	if err != nil {
		return "", fmt.Errorf("minting from role %s: %w", role, err)
	}
	if secret == nil || secret.LeaseID == "" {
		return "", fmt.Errorf("minting from role %s: the answer has no lease", role)
	}
	return secret.LeaseID, nil
}

// revoke revokes a lease, and returns when that is done.
func (r *rig) revoke(ctx context.Context, lease string) error {
	_, err := r.write(ctx, "sys/leases/revoke", map[string]any{"lease_id": lease, "sync": true})
	return err
}

// minted returns how many live tokens the workspace has but the engine's own.
func (r *rig) minted() int {
	n := 0
	for _, token := range r.workspace.Tokens() {
		if token.ID != r.ownToken {
			n++
		}
	}
	return n
}

// each runs job in as many goroutines as there are clients, and returns the first error. It then ends the others' context.
func each(ctx context.Context, clients int, job func(ctx context.Context, client int) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var all sync.WaitGroup
	for client := range clients {
		all.Go(func() {
			if err := job(ctx, client); err != nil {
				cancel(err)
			}
		})
	}
	all.Wait()
	return context.Cause(ctx)
}
