// SPDX-License-Identifier: MPL-2.0

package databricks

import (
	"context"
	"fmt"
	"reflect"
	"slices"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
)

// sameConfig tells whether a stored config, nil for none, is as it was, whatever has become of its rotation. It answers the
// present one, or the default.
func sameConfig(before, now *logical.StorageEntry) (same bool, stored *configEntry, err error) {
	if before == nil || now == nil {
		return before == now, newConfig(), nil
	}
	then, err := decodeConfig(before)
	if err != nil {
		return false, nil, err
	}
	if stored, err = decodeConfig(now); err != nil {
		return false, nil, err
	}
	a, b := *then, *stored
	a.Rotation, b.Rotation = rootRotation{}, rootRotation{}
	return reflect.DeepEqual(a, b), stored, nil
}

// carryRotation takes the state of the rotation over from the stored config, which this one is to replace.
func (c *configEntry) carryRotation(stored *configEntry, given kept, now, managedNext time.Time) {
	managed := c.Rotation.Managed
	c.Rotation = stored.Rotation
	r := &c.Rotation
	r.Retired, r.HandMade = slices.Clone(r.Retired), slices.Clone(r.HandMade)
	replaced := c.replaces(stored)
	if replaced {
		// By hand: what a rotation made is no longer needed.
		if r.Credential.ID != "" {
			r.retire(stored, now)
		}
		r.HandMade = nil
	}
	if r.Credential.ID == "" && (replaced || given.Lifetime > 0) {
		r.Credential = given
	}
	switch s := c.effectiveSchedule(); {
	case replaced:
		r.restart(s, now)
	case s != stored.effectiveSchedule():
		r.reschedule(s, now)
	}
	if r.Managed = managed; managed && !managedNext.IsZero() {
		r.Next = managedNext
	}
}

// replaces tells whether the config brings another credential than the stored one has.
func (c *configEntry) replaces(stored *configEntry) bool {
	return stored.Host != "" && (c.AuthType != stored.AuthType || c.ClientID != stored.ClientID || c.Token != stored.Token || c.ClientSecret != stored.ClientSecret)
}

// checkRotation refuses a schedule that can't be kept.
func (c *configEntry) checkRotation(now time.Time) error {
	if err := c.schedule.check(now); err != nil {
		return err
	}
	if !c.automatic() {
		return nil
	}
	field := keyRotationPeriod
	if c.Cron != "" {
		field = keyRotationSchedule
	}
	if !rotates(c.AuthType) {
		return notRotated(field, c.AuthType)
	}
	if next := c.after(now); next.Sub(now) > maxLifetime/2 || c.after(next).Sub(next) > maxLifetime/2 {
		return badField(field, "has more than 365 days from one rotation to the next; a credential lives for 730 days at most, so one that is late must still be possible")
	}
	return nil
}

// askManager completes the config's rotation by what Vault's rotation manager says, where that keeps the schedule.
func (b *backend) askManager(ctx context.Context, config *configEntry) {
	if config.Rotation.Managed {
		if next := b.managedNext(ctx); !next.IsZero() {
			config.Rotation.Next = next
		}
	}
}

// removeRoot removes the credentials that rotations made for a config that is gone, the one that it connects with last.
func (b *backend) removeRoot(ctx context.Context, resp *logical.Response, config *configEntry) {
	all := config.Rotation.all()
	slices.Reverse(all)
	conn, connErr := b.connect(ctx, config)
	if connErr == nil {
		defer conn.client.Close()
	}
	for _, k := range all {
		b.Logger().Info("removing a credential of the engine, since its config was deleted", "credential_type", k.Type, "id", k.ID, "host", k.Host)
		err := connErr
		if err == nil {
			err = b.revokeKept(ctx, conn, &k)
		}
		if err != nil {
			resp.AddWarning(fmt.Sprintf("The engine's own %s %s may be left at %s; it ends by itself at %s (%s)", k.Type, k.ID, k.Host, rfc3339(k.Expires), err))
		}
	}
}
