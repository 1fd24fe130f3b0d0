// SPDX-License-Identifier: MPL-2.0

package databricks

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/helper/automatedrotationutil"
	"github.com/hashicorp/vault/sdk/logical"
	"github.com/hashicorp/vault/sdk/rotation"
)

const (
	rotationJobName = "databricks-root-credential"
	rotationJobPath = "config"
)

// arrangeRotation has Vault's rotation manager keep the config's schedule, where the host has one, and answers whether it does,
// and when it first will. Elsewhere the engine's own tick does. The config has not been saved yet. A schedule that stays is handed
// over again, in case the manager has lost it, with the time that it had.
func (b *backend) arrangeRotation(ctx context.Context, mountPoint string, old, config *configEntry) (managed bool, next time.Time, err error) {
	job := config.effectiveSchedule()
	switch {
	case !job.Automatic() && !old.Rotation.Managed:
		return false, time.Time{}, nil
	case !job.Automatic():
		return false, time.Time{}, b.endArrangement(ctx, mountPoint)
	}
	request := &rotation.RotationJobConfigureRequest{
		Name: rotationJobName, MountPoint: mountPoint, ReqPath: rotationJobPath,
		RotationSchedule: job.Cron, RotationWindow: seconds(job.Window), RotationPeriod: seconds(job.Period),
		RotationPolicy: config.RotationPolicy,
	}
	if old.effectiveSchedule() == job {
		next := old.Rotation.Next
		if told := b.managedNext(ctx); old.Rotation.Managed && !told.IsZero() {
			next = told
		}
		if next.After(b.now()) {
			request.MigratedLegacyNextRotationTime = next
		}
	}
	info, err := b.System().RegisterRotationJobWithResponse(ctx, request)
	switch {
	case withoutRotationManager(err):
		return false, time.Time{}, nil
	case err != nil && old.Rotation.Managed && old.effectiveSchedule() == job:
		b.Logger().Warn("Vault's rotation manager did not confirm the schedule, which it should have from before", "error", err)
		return true, old.Rotation.Next, nil
	case err != nil:
		return false, time.Time{}, fmt.Errorf("hand the schedule to Vault's rotation manager: %w", err)
	}
	if info.NextVaultRotation.Unix() <= 0 {
		return true, time.Time{}, nil // it doesn't tell
	}
	return true, info.NextVaultRotation.UTC(), nil
}

// endArrangement tells the rotation manager to let go of the config.
func (b *backend) endArrangement(ctx context.Context, mountPoint string) error {
	err := b.System().DeregisterRotationJob(ctx, &rotation.RotationJobDeregisterRequest{MountPoint: mountPoint, ReqPath: rotationJobPath})
	if err != nil && !withoutRotationManager(err) {
		return fmt.Errorf("take the schedule back from Vault's rotation manager: %w", err)
	}
	return nil
}

// rearrange makes the rotation manager keep the stored schedule again, after the config that it was told of was not
// saved; where it can't be read, that of old.
func (b *backend) rearrange(ctx context.Context, s logical.Storage, mountPoint string, old, refused *configEntry) {
	ctx = context.WithoutCancel(ctx)
	stored, err := readConfig(ctx, s)
	switch {
	case err != nil:
		stored, err = old, nil
	case stored == nil:
		stored = newConfig()
	}
	switch {
	case !refused.Rotation.Managed && !stored.Rotation.Managed:
	case !stored.Rotation.Managed:
		err = b.endArrangement(ctx, mountPoint)
	default:
		before := *stored
		before.Rotation.Managed = false // the manager has another schedule now
		_, _, err = b.arrangeRotation(ctx, mountPoint, &before, stored)
	}
	if err != nil {
		b.Logger().Warn("Vault's rotation manager may keep a schedule that was not stored; write the config again", "error", err)
	}
}

// askManagerAgain hands the schedule over once more, after the engine had to rotate in the manager's place. Where there is no manager
// any more, the engine keeps the schedule from now on.
func (b *backend) askManagerAgain(ctx context.Context, req *logical.Request) error {
	config, err := readConfig(ctx, req.Storage)
	if err != nil || config == nil || !config.Rotation.Managed {
		return err
	}
	managed, next, err := b.arrangeRotation(ctx, req.MountPoint, config, config)
	if err != nil {
		b.Logger().Warn("Vault's rotation manager does not answer", "error", err)
		return nil
	}
	if !managed {
		b.Logger().Warn("there is no rotation manager any more, so the engine keeps the schedule from now on")
	}
	return b.changeRotation(ctx, req.Storage, func(c *configEntry) {
		c.Rotation.Managed = managed
		if managed && !next.IsZero() {
			c.Rotation.Next = next
		}
	})
}

// managedNext asks the rotation manager when it will rotate next; the zero time when it doesn't tell.
func (b *backend) managedNext(ctx context.Context) time.Time {
	info, err := b.System().GetRotationInformation(ctx, &rotation.RotationInfoRequest{ReqPath: rotationJobPath})
	if err != nil || info == nil || info.NextVaultRotation.Unix() <= 0 {
		return time.Time{}
	}
	return info.NextVaultRotation.UTC()
}

// rotateManaged is what Vault's rotation manager calls.
func (b *backend) rotateManaged(ctx context.Context, req *logical.Request) error {
	var before *configEntry
	_, unrecognised, err := b.rotateRoot(ctx, req, func(c *configEntry) bool {
		before = c
		return c.effectiveSchedule().Automatic() // else the manager has not heard of the config that is stored
	})
	if unrecognised != "" {
		b.Logger().Warn(unrecognised)
	}
	if err == nil {
		return nil
	}
	replaced, saveErr := b.recordRootFailure(ctx, req.Storage, before, err, false)
	if replaced {
		return saveErr
	}
	// As an answer to the user it would look like a success to the manager.
	return errors.New(errors.Join(err, saveErr).Error())
}

// withoutRotationManager tells whether the host has no rotation manager: Vault Community says that it is not supported, and a host
// that is older than the plugin's SDK that it is not implemented. Neither keeps its type on the way to the plugin.
func withoutRotationManager(err error) bool {
	if err == nil {
		return false
	}
	if errors.Is(err, automatedrotationutil.ErrRotationManagerUnsupported) {
		return true
	}
	text := strings.ToLower(err.Error())
	return strings.Contains(text, strings.ToLower(automatedrotationutil.ErrRotationManagerUnsupported.Error())) ||
		strings.Contains(text, "rotation manager") && (strings.Contains(text, "not supported") || strings.Contains(text, "unsupported")) ||
		strings.Contains(text, "unimplemented") || strings.Contains(text, "not implemented")
}

// askManager completes the config's rotation by what Vault's rotation manager says, where that keeps the schedule.
func (b *backend) askManager(ctx context.Context, config *configEntry) {
	if config.Rotation.Managed {
		if next := b.managedNext(ctx); !next.IsZero() {
			config.Rotation.Next = next
		}
	}
}
