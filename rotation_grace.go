// SPDX-License-Identifier: MPL-2.0

package databricks

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-databricks/internal/client"
	"vault-plugin-secrets-databricks/internal/credential"
	"vault-plugin-secrets-databricks/internal/schedule"
)

// Each rotation leaves a credential in its grace, which takes a place: an identity can have 600 tokens in a workspace, a service principal
// five OAuth secrets. So a rotation is refused while too many are in their grace, however it is asked for.

const (
	// maxInGrace is how many replaced tokens of one static role, or of the config, may be in their grace.
	maxInGrace = 50

	// maxTokensInGrace is how many replaced tokens of one identity may be in their grace, over all static roles and the config, when a
	// rotation is asked for by hand: a third of what the identity can have.
	maxTokensInGrace = 200
)

// graceFullError says that a rotation has to wait until something has had its grace.
type graceFullError struct {
	error
	until time.Time // when that is
}

func (f *graceFullError) Unwrap() error { return f.error }

// retryAt returns when the rotation is tried again after the error, which is at the latest when it may be possible.
func (f *graceFullError) retryAt(now time.Time) time.Time {
	soonest, latest := now.Add(schedule.FirstRetry), now.Add(schedule.LongestRetry)
	switch {
	case f.until.Before(soonest):
		return retryTime(soonest, 0)
	case f.until.After(latest):
		return retryTime(latest, 0)
	default:
		return retryTime(f.until, 0)
	}
}

// place is what a credential takes one of: those of an identity in a workspace, or of a service principal.
type place struct {
	workspace string
	owner     string
	secret    bool // an OAuth secret; else a token
}

// placeOf returns the place that the credential takes. The principal is whom a token is on behalf of.
func placeOf(k *storedCredential, principal string) place {
	p := place{workspace: k.WorkspaceID, owner: k.OwnerID}
	if p.workspace == "" {
		p.workspace = k.Host + " " + k.AccountID
	}
	switch k.Type {
	case credential.OAuthSecret:
		p.owner, p.secret = k.ServicePrincipalID, true
	case credential.OBOToken:
		p.owner = principal
	}
	return p
}

// limit returns how many in such places one role may have in their grace.
func (p place) limit() int {
	if p.secret {
		return credential.MaxOAuthSecrets - 2 // one is for the current credential, one for its successor
	}
	return maxInGrace
}

// limitByHand returns how many of all roles may be in their grace, beside so many that are current, for a rotation by hand: after it, there
// is a place left for others.
func (p place) limitByHand(current int) int {
	if p.secret {
		return max(1, credential.MaxOAuthSecrets-1-current)
	}
	return maxTokensInGrace
}

// inGrace returns the credentials that take such places and still live.
func (p place) inGrace(all []retired, principal string, now time.Time) []retired {
	var found []retired
	for _, old := range all {
		if placeOf(&old.storedCredential, principal) == p && now.Before(old.Expires) {
			found = append(found, old)
		}
	}
	slices.SortStableFunc(found, func(a, b retired) int { return a.Until.Compare(b.Until) })
	return found
}

// graceUse is what the stored credentials of the mount take of a kind of place.
type graceUse struct {
	current int
	retired []retired
	holders []string // the names of what has retired ones
	without int      // how many have a current one and no retired ones
}

// graceUse counts what the config and the static roles have in such places.
func (b *backend) graceUse(ctx context.Context, s logical.Storage, p place) (use graceUse, err error) {
	now := b.now()
	count := func(name string, current *storedCredential, all []retired, principal string) {
		found := p.inGrace(all, principal, now)
		if len(found) > 0 {
			use.retired, use.holders = append(use.retired, found...), append(use.holders, name)
		}
		if current.ID != "" && placeOf(current, principal) == p {
			use.current++
			if len(found) == 0 {
				use.without++
			}
		}
	}
	config, err := readConfig(ctx, s)
	if err != nil {
		return use, err
	}
	if config != nil {
		r := &config.Rotation
		count("config", &r.Credential, r.Retired, "")
		if own := config.knownOrigin(); p.secret && config.AuthType == client.AuthOAuthM2M &&
			p == placeOf(&storedCredential{origin: own, Type: credential.OAuthSecret, ServicePrincipalID: own.OwnerID}, "") {
			use.current += len(r.OperatorCreated)
			if r.Credential.ID == "" {
				use.current++ // which an operator created
			}
		}
	}
	names, err := s.List(ctx, staticStoragePrefix)
	if err != nil {
		return use, err
	}
	for _, name := range names {
		e, err := b.static(ctx, s, name)
		if err != nil && !isUnreadable(err) {
			return use, err
		}
		if e != nil {
			count("static role "+name, &e.State.Current, e.State.Retired, e.ServicePrincipalID)
		}
	}
	slices.SortStableFunc(use.retired, func(a, b retired) int { return a.Until.Compare(b.Until) })
	return use, nil
}

// checkGrace returns a graceFullError while there are too many in their grace for another rotation: own of the one that is to be
// rotated and, for one that is asked for by hand, of all that take the same places.
func (b *backend) checkGrace(ctx context.Context, s logical.Storage, what string, p place, own []retired, byHand bool) error {
	kind := "tokens"
	if p.secret {
		kind = "OAuth secrets"
	}
	if len(own) >= p.limit() {
		first := own[len(own)-p.limit()]
		return &graceFullError{badField(keyGrace, "%s has %d replaced %s in their grace, and it may have %d; the next rotation is possible at %s, when the grace of the first ends", what, len(own), kind, p.limit(), rfc3339(first.Until)), first.Until}
	}
	if !byHand {
		return nil
	}
	use, err := b.graceUse(ctx, s, p)
	if err != nil {
		return err
	}
	limit := p.limitByHand(use.current)
	if len(own) > 0 {
		limit = max(1, limit-use.without) // each of the others can be rotated once
	}
	if len(use.retired) >= limit {
		first := use.retired[len(use.retired)-limit]
		return &graceFullError{badField(keyGrace, "%d replaced %s that take the same places are in their grace (%s), and a rotation on request must leave a place for others, so there may be %d; it is possible at %s, when the grace of the first ends", len(use.retired), kind, strings.Join(use.holders, ", "), limit, rfc3339(first.Until)), first.Until}
	}
	return nil
}

// makeRoom returns an error while there are too many replaced credentials in their grace for the role as it is to be to get another one. It
// removes those that have had their grace and, where the request says so, the oldest ones of the role that have not.
func (i *staticItem) makeRoom(ctx context.Context, role *staticRole) error {
	byHand := i.byHand && role.Grace > 0
	settled := false
	for {
		e := i.e
		p := placeOf(&e.State.Current, e.ServicePrincipalID)
		own := p.inGrace(e.State.Retired, e.ServicePrincipalID, i.b.now())
		err := i.b.checkGrace(ctx, i.req.Storage, fmt.Sprintf("static role %q", i.name), p, own, byHand)
		var full *graceFullError
		switch {
		case !errors.As(err, &full):
			return err
		case !settled && len(own) > 0 && !i.b.now().Before(own[0].Until):
			settled = true
			if err := i.followUp(ctx); err != nil {
				i.b.Logger().Warn("what has had its grace could not be removed", "name", i.name, "error", err)
			}
			continue
		}
		own = slices.DeleteFunc(own, func(old retired) bool { return e.pinned(&old) })
		switch {
		case !i.byHand:
			return err
		case len(own) == 0:
			return &graceFullError{fmt.Errorf("%w; none of them can make room here, but a rotation with rotation_grace_period=0 needs no place for longer", err), full.until}
		case !i.endOldest:
			return &graceFullError{fmt.Errorf("%w. To rotate now, send %s=true, which removes it at once", err, keyEndOldest), full.until}
		}
		if err := i.endGrace(ctx, &own[0]); err != nil {
			return err
		}
	}
}

// endGrace removes a credential that is still in its grace.
func (i *staticItem) endGrace(ctx context.Context, old *retired) error {
	if err := i.b.revokeStored(ctx, i.conn, &old.storedCredential); err != nil {
		return fmt.Errorf("end the grace of %s: %w", old.ID, err)
	}
	i.b.Logger().Info("the grace of a replaced credential was ended to make room for a rotation", "name", i.name, "id", old.ID, "until", rfc3339(old.Until))
	e := i.e.clone()
	e.State.forget([]string{old.ID})
	if err := i.b.saveStatic(context.WithoutCancel(ctx), i.req.Storage, i.name, e); err != nil {
		return err
	}
	i.e = e
	return nil
}

// makeRoom returns an error while there are too many replaced credentials of the engine in their grace. It removes those that have had it.
func (r *rootItem) makeRoom(ctx context.Context, conn *connection) error {
	check := func() error {
		current := &r.config.Rotation.Credential
		if current.ID == "" {
			return nil // of an operator, and so without a grace
		}
		p := placeOf(current, "")
		return r.b.checkGrace(ctx, r.req.Storage, "the engine", p, p.inGrace(r.config.Rotation.Retired, "", r.b.now()), r.byHand)
	}
	err := check()
	var full *graceFullError
	if !errors.As(err, &full) {
		return err
	}
	gone, removeErr := r.removeRetired(ctx, conn)
	if len(gone) == 0 {
		return err
	}
	if removeErr = errors.Join(removeErr, r.forget(ctx, gone)); removeErr != nil {
		return errors.Join(err, removeErr)
	}
	r.config.Rotation.Retired = slices.Clone(r.config.Rotation.Retired)
	r.config.Rotation.forget(gone)
	return check()
}
