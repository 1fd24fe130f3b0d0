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

// registerRotationJob gives the schedule of a config that is about to be saved to Vault's rotation manager. It returns whether the
// manager follows it, and when it will first rotate; the zero time where it doesn't tell. Without a schedule, or on a host without
// a rotation manager, it returns false and no error, and the engine follows the schedule itself.
//
// A schedule that stays is registered again, since the manager may have lost it, with the time of its next rotation.
//
// The order is: register, save, deregister. So nothing is stored that nobody follows. When the save fails, the manager has a
// schedule that isn't stored, but it can't do harm: rotateManaged goes by what is stored, and the engine replaces the credential
// before it ends in any case. The next write that has a schedule registers that one in its place, and deleting the config removes it.
// The caller holds jobLocks from before this until after the deregistration, so that a late one removes no newer job.
func (b *backend) registerRotationJob(ctx context.Context, mountPoint string, old, config *configEntry) (managed bool, next time.Time, err error) {
	job := config.effectiveSchedule()
	if !job.Automatic() {
		return false, time.Time{}, nil
	}
	request := &rotation.RotationJobConfigureRequest{
		Name: rotationJobName, MountPoint: mountPoint, ReqPath: rotationJobPath,
		RotationSchedule: job.Cron, RotationWindow: seconds(job.Window), RotationPeriod: seconds(job.Period),
		RotationPolicy: config.RotationPolicy,
	}
	same := old.effectiveSchedule() == job
	if same {
		stored := old.Rotation.Next
		b.refreshNextRotation(ctx, old)
		if old.Rotation.Next.After(job.After(b.now()).Add(time.Second)) {
			old.Rotation.Next = stored // the manager has the time of a schedule that could not be saved
		}
		if old.Rotation.Next.After(b.now()) {
			request.MigratedLegacyNextRotationTime = old.Rotation.Next
		}
	}
	info, err := b.System().RegisterRotationJobWithResponse(ctx, request)
	switch {
	case withoutRotationManager(err):
		return false, time.Time{}, nil
	case err != nil && old.Rotation.Managed && same && old.RotationPolicy == config.RotationPolicy:
		b.Logger().Warn("Vault's rotation manager did not confirm the schedule, which it should have from before", "error", err)
		return true, old.Rotation.Next, nil
	case err != nil:
		return false, time.Time{}, fmt.Errorf("hand the schedule to Vault's rotation manager: %w", err)
	}
	if info.NextVaultRotation.Unix() <= 0 {
		return true, time.Time{}, nil
	}
	return true, info.NextVaultRotation.UTC(), nil
}

// deregisterRotationJob ends the rotation manager's job for a config that has no schedule any more, or was deleted. A failure is a
// warning: what the manager calls then rotates nothing.
func (b *backend) deregisterRotationJob(ctx context.Context, resp *logical.Response, mountPoint string) {
	err := b.System().DeregisterRotationJob(ctx, &rotation.RotationJobDeregisterRequest{MountPoint: mountPoint, ReqPath: rotationJobPath})
	if err != nil && !withoutRotationManager(err) {
		resp.AddWarning(fmt.Sprintf("Vault's rotation manager may go on trying to rotate: %s", vaultSaid(err)))
	}
}

// refreshNextRotation sets the config's next rotation to what Vault's rotation manager says, if that follows the schedule and tells.
func (b *backend) refreshNextRotation(ctx context.Context, config *configEntry) {
	if !config.Rotation.Managed {
		return
	}
	info, err := b.System().GetRotationInformation(ctx, &rotation.RotationInfoRequest{ReqPath: rotationJobPath})
	if err == nil && info != nil && info.NextVaultRotation.Unix() > 0 {
		config.Rotation.Next = info.NextVaultRotation.UTC()
	}
}

// rotateManaged is what Vault's rotation manager calls. It rotates only where the stored config leaves that to the manager, which
// may have a job of a config that could not be saved.
func (b *backend) rotateManaged(ctx context.Context, req *logical.Request) error {
	root, unlock, err := b.lockRoot(ctx, req)
	defer unlock()
	if err == nil {
		if !root.config.Rotation.Managed || !root.config.effectiveSchedule().Automatic() {
			return nil
		}
		if err = root.rotate(ctx); err == nil {
			return nil
		}
		recorded, saveErr := b.recordFailure(ctx, root, err, false)
		if !recorded && saveErr == nil {
			return nil // an operator has written another credential
		}
		err = errors.Join(err, saveErr)
	}
	// Some errors are the user's mistakes. As an answer to the user they would look like a success to the manager.
	return errors.New(err.Error())
}

// withoutRotationManager reports whether an error says that the host has no rotation manager: Vault Community says that it is not
// supported, and a host that is older than the plugin's SDK that it is not implemented. Neither keeps its type on the way to the plugin.
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
