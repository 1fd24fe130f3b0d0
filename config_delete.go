// SPDX-License-Identifier: MPL-2.0

package databricks

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"
)

// deleteConfig ends the mount's connection. Unless force says otherwise, it is retained for the leases that are out.
func (b *backend) deleteConfig(ctx context.Context, req *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	unlock, err := b.rotationLocks.Lock(ctx, configStorageKey)
	if err != nil {
		return nil, err
	}
	defer unlock()
	force := data.Get(keyForce).(bool)
	config, readErr := readConfig(ctx, req.Storage)
	if readErr != nil && !errors.Is(readErr, errUnreadableConfig) {
		return nil, readErr
	}
	if readErr != nil {
		b.Logger().Warn("the config that is deleted can't be read", "error", readErr)
	}
	left, err := b.checkDelete(ctx, req, config, force)
	if err != nil {
		return nil, err
	}
	until := b.retainedUntil()
	if force {
		until = b.now().UTC()
	}
	unlockJob, err := b.jobLocks.Lock(ctx, configStorageKey)
	if err != nil {
		return nil, err
	}
	unlockJob = sync.OnceFunc(unlockJob)
	defer unlockJob()
	kept, err := b.forgetConfig(ctx, req.Storage, until)
	if err != nil {
		return nil, err
	}
	b.event("config-delete", req.Path)
	resp := &logical.Response{}
	b.deregisterRotationJob(ctx, resp, req.MountPoint) // there may be a job of a config that could not be saved
	unlockJob()                                        // before the calls to Databricks
	if readErr != nil {
		resp.AddWarning(fmt.Sprintf("The config could not be read, so it is not retained for revocations, and a credential that a rotation made for it may be left at Databricks, until it ends or a tidy finds it: %s", readErr))
	}
	switch {
	case force:
		b.warnOfForcedDelete(ctx, req, resp, kept, left)
	case kept != nil:
		if config != nil {
			kept = b.fitRetained(ctx, req, kept)
		}
		b.removeRetiredOf(ctx, req.Storage, kept.Config)
		resp.AddWarning(kept.notice(req.MountPoint))
	}
	return resp, nil
}

// checkDelete returns an error where the config must not be deleted without force, and what leases have left.
func (b *backend) checkDelete(ctx context.Context, req *logical.Request, config *configEntry, force bool) (left outstanding, err error) {
	names, err := req.Storage.List(ctx, staticStoragePrefix)
	if err != nil {
		return left, err
	}
	if len(names) > 0 && !force {
		return left, badField(keyForce, "is missing; there are static roles, which could be neither rotated nor removed without the connection: %s. Delete them first, or send force=true", joinIDs(names))
	}
	if config == nil {
		// Of one that is retained, it is only said what is left.
		kept, err := readRetained(ctx, req.Storage)
		if err == nil && kept != nil && force {
			left, err = b.outstanding(ctx, req.Storage, kept.Config.knownOrigin())
		}
		if err != nil {
			b.Logger().Warn("what a deleted config leaves could not be counted", "error", err)
		}
		return left, nil
	}
	if left, err = b.outstanding(ctx, req.Storage, config.knownOrigin()); err != nil && !force {
		return left, err
	}
	if left.none() || force {
		return left, nil
	}
	return left, badField(keyForce, "is missing; leases are out for what never ends by itself at %s: %s. Revoke them first: %s (what no lease holds any more, the engine removes within minutes after the lease's end). Or send force=true, and it stays there",
		config.Host, left, left.revokeCommands(req.MountPoint))
}

// forgetConfig deletes the config from the storage and from memory. It is retained until the time given: where that is now, for removing
// the credentials that rotations made, which a crash must not prevent. One that can't be read is not retained. It returns what is retained,
// be it since an earlier delete, nil for nothing.
func (b *backend) forgetConfig(ctx context.Context, s logical.Storage, until time.Time) (*retainedConfig, error) {
	b.configWrite.Lock()
	defer b.configWrite.Unlock()
	config, err := readConfig(ctx, s)
	switch {
	case err != nil && !errors.Is(err, errUnreadableConfig):
		return nil, err
	case config != nil:
		return b.retainConfig(ctx, s, config, until)
	}
	defer b.nextRun.touch()
	defer b.dropConnection() // even after an error it may be gone
	if err := b.eraseConfig(ctx, s); err != nil {
		return nil, err
	}
	kept, err := readRetained(ctx, s)
	if errors.Is(err, errUnreadableRetained) {
		return nil, nil // a delete with force drops it
	}
	return kept, err
}

// warnOfForcedDelete drops what is retained, nil for nothing that can be read, and warns of what is left.
func (b *backend) warnOfForcedDelete(ctx context.Context, req *logical.Request, resp *logical.Response, kept *retainedConfig, left outstanding) {
	warnings, err := b.dropRetained(ctx, req.Storage, false)
	for _, warning := range warnings {
		resp.AddWarning(warning)
	}
	if err != nil {
		resp.AddWarning(fmt.Sprintf("The connection may still be retained, which a repeated delete with force=true ends: %s", err))
	}
	if kept == nil {
		return
	}
	resp.AddWarning(fmt.Sprintf("Leases of this mount can no longer be revoked, nor the mount be disabled while there are any, until it is connected to %s again: tokens and OAuth secrets end by their own expiry, but not the service principals of leases.", kept.Config.Host))
	if !left.none() {
		resp.AddWarning(fmt.Sprintf("What never ends by itself stays at %s: %s. To remove it, write the config again, and then: %s", kept.Config.Host, left, left.revokeCommands(req.MountPoint)))
	}
}

// notice says that the config is retained.
func (kept *retainedConfig) notice(mountPoint string) string {
	ends := ""
	k := kept.Config.Rotation.Credential
	if k.ID != "" {
		ends = fmt.Sprintf(" With it goes the credential that a rotation made, %s; if the mount is disabled before, that ends by itself at %s.", k.ID, rfc3339(k.Expires))
	}
	if !k.Expires.IsZero() && k.Expires.Before(kept.Until) {
		ends += fmt.Sprintf(" But the credential that it connects with ends at %s: revoke the leases before, or write the config again with another one.", rfc3339(k.Expires))
	}
	return fmt.Sprintf("Nothing can be minted or renewed any more. The connection to %s is retained until %s, only to revoke the leases of this mount and to undo what failed; then leases can no longer be revoked.%s To drop it at once: vault delete %sconfig force=true", kept.Config.Host, rfc3339(kept.Until), ends, mountPoint)
}

// replaceRetained drops what is retained of an earlier config, since there is a new one.
func (b *backend) replaceRetained(ctx context.Context, req *logical.Request, resp *logical.Response) {
	warnings, err := b.dropRetained(ctx, req.Storage, false)
	if err != nil {
		b.Logger().Warn("the retained connection could not be dropped; it is tried again within a minute", "error", err)
	}
	for _, warning := range warnings {
		resp.AddWarning(warning)
	}
}
