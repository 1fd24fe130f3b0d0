// SPDX-License-Identifier: MPL-2.0

package databricks

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
)

// tendRoot does what is due of the engine's own credential, and answers when there is more to do.
func (b *backend) tendRoot(ctx context.Context, req *logical.Request) (time.Time, error) {
	config, err := readConfig(ctx, req.Storage)
	if err != nil || config == nil {
		return time.Time{}, err
	}
	now := b.now()
	if probe := *config; probe.cloneRotation().correct(config.effectiveSchedule(), now) {
		b.Logger().Warn("dates of the rotation of the engine's own credential lay further ahead than can be, so they are corrected; was the clock set back?")
		err := b.changeRotation(ctx, req.Storage, func(c *configEntry) { c.Rotation.correct(c.effectiveSchedule(), now) })
		if err != nil {
			return time.Time{}, err
		}
		if config, err = readConfig(ctx, req.Storage); err != nil || config == nil {
			return time.Time{}, err
		}
	}
	s, r := config.effectiveSchedule(), &config.Rotation
	if at := r.at(s); at.IsZero() || at.After(now) {
		return at, nil
	}
	switch scheduled := r.rotateAt(s); {
	case scheduled.IsZero() || scheduled.After(now):
	case !r.Managed && r.missed(s, now):
		b.Logger().Warn("a rotation of the engine's own credential was left out, because its window has passed", "scheduled", rfc3339(r.Next))
		b.event(ctx, "root-rotate-fail", "config/rotate-root", "missed", rfc3339(r.Next))
		err = b.changeRotation(ctx, req.Storage, func(c *configEntry) { c.Rotation.skip(c.effectiveSchedule(), now) })
	default:
		var rotated bool
		rotated, err = b.rotateRootInTime(ctx, req)
		if rotated && r.Managed {
			err = b.askManagerAgain(ctx, req)
		}
	}
	if err == nil {
		err = b.tendRetiredRoot(ctx, req)
	}
	if err != nil {
		return time.Time{}, err
	}
	if config, err = readConfig(ctx, req.Storage); err != nil || config == nil {
		return time.Time{}, err
	}
	return config.Rotation.at(config.effectiveSchedule()), nil
}

// rotateRootInTime rotates, or records why that failed.
func (b *backend) rotateRootInTime(ctx context.Context, req *logical.Request) (rotated bool, err error) {
	var before *configEntry
	_, unrecognised, err := b.rotateRoot(ctx, req, func(c *configEntry) bool {
		before = c
		at := c.Rotation.rotateAt(c.effectiveSchedule())
		return !at.IsZero() && !at.After(b.now())
	})
	if unrecognised != "" {
		b.Logger().Warn(unrecognised)
	}
	if err == nil {
		return true, nil
	}
	_, err = b.recordRootFailure(ctx, req.Storage, before, err, true)
	return false, err
}

// recordRootFailure records why the credential of before could not be replaced, even if there is no time left for anything else. It
// doesn't when the storage has another credential by now: after an error that left open whether the new one was saved, or because
// somebody wrote the config meanwhile. Again tells whether the engine tries again, or leaves that to Vault's rotation manager.
func (b *backend) recordRootFailure(ctx context.Context, s logical.Storage, before *configEntry, why error, again bool) (replaced bool, err error) {
	ctx = context.WithoutCancel(ctx)
	if before == nil {
		b.Logger().Debug("a rotation was not begun", "error", why)
		return false, nil // there was no turn to do so, or no config
	}
	var p progress
	err = b.changeRotation(ctx, s, func(c *configEntry) {
		if replaced = !c.sameCredential(before); !replaced {
			c.Rotation.failed(b.now(), why)
			if !again {
				c.Rotation.Retry = time.Time{}
			}
		}
		p = c.Rotation.progress
	})
	if replaced {
		b.agenda.touch()
		b.Logger().Warn("a rotation of the engine's own credential ended with an error, but the config has another credential by now", "error", why)
		return true, err
	}
	b.rotationFailed(ctx, "root-rotate", "config/rotate-root", "the engine's own credential", &p, why)
	return false, err
}

// tendRetiredRoot removes what was replaced and has had its grace. What can't be removed now is tried again in an hour.
func (b *backend) tendRetiredRoot(ctx context.Context, req *logical.Request) error {
	leave, err := b.rotationTurns.take(ctx, configStorageKey)
	if err != nil {
		return err
	}
	defer leave()
	config, err := readConfig(ctx, req.Storage)
	if err != nil || config == nil {
		return err
	}
	now := b.now()
	if now.Before(config.Rotation.Again) || !slices.ContainsFunc(config.Rotation.Retired, func(r retired) bool { return !now.Before(r.Until) }) {
		return nil
	}
	conn, done, err := b.connectionOf(ctx, req.Storage, config)
	if err != nil {
		return err
	}
	defer done()
	why := b.removeRetiredRoot(ctx, req, conn)
	if why == nil && config.Rotation.Trouble == "" {
		return nil
	}
	if _, said := b.complaints.LoadOrStore("retired "+requestID.ReplaceAllString(fmt.Sprint(why), ""), true); why != nil && !said {
		b.Logger().Error("a credential of the engine that was replaced could not be removed; it is tried again every hour", "error", why)
		b.event(ctx, "root-rotate-fail", "config/rotate-root", "next_attempt", rfc3339(now.Add(longestRetry)))
	}
	return b.changeRotation(context.WithoutCancel(ctx), req.Storage, func(c *configEntry) {
		c.Rotation.Trouble, c.Rotation.Again = "", time.Time{}
		if why != nil {
			c.Rotation.Trouble, c.Rotation.Again = why.Error(), b.now().UTC().Add(longestRetry).Truncate(time.Second)
		}
	})
}

// removeRetiredRoot removes what was replaced and has had its grace. The caller has the turn. What can't be removed stays
// recorded until it has ended by itself.
func (b *backend) removeRetiredRoot(ctx context.Context, req *logical.Request, conn *connection) error {
	var done []string
	var errs []error
	for _, old := range conn.config.Rotation.Retired {
		if b.now().Before(old.Until) {
			continue
		}
		if err := b.revokeKept(ctx, conn, &old.kept); err != nil {
			errs = append(errs, err)
			continue
		}
		done = append(done, old.ID)
	}
	if len(done) == 0 {
		return errors.Join(errs...)
	}
	err := b.changeRotation(context.WithoutCancel(ctx), req.Storage, func(c *configEntry) {
		c.Rotation.Retired = slices.DeleteFunc(c.Rotation.Retired, func(r retired) bool { return slices.Contains(done, r.ID) })
	})
	return errors.Join(append(errs, err)...)
}
