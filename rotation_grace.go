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

// graceCheck is a rotation that is to be checked.
type graceCheck struct {
	field  string // by which its error begins
	what   string
	place  place
	own    []retired // of what is to be rotated, oldest first
	ended  int       // how many of own will have been removed before
	byHand bool      // somebody asks for it
}

// checkGrace returns a graceFullError while there are too many in their grace for another rotation: of the one that is to be rotated and, for
// one that is asked for by hand, of all that take the same places. Who gives up all of its own is not held up by the others.
func (b *backend) checkGrace(ctx context.Context, s logical.Storage, c graceCheck) error {
	p, own := c.place, c.own[c.ended:]
	kind := "tokens"
	if p.secret {
		kind = "OAuth secrets"
	}
	if len(own) >= p.limit() {
		first := own[len(own)-p.limit()]
		return &graceFullError{badField(c.field, "%s has %d replaced %s in their grace, and it may have %d; the next rotation is possible at %s, when the grace of the first ends", c.what, len(own), kind, p.limit(), rfc3339(first.Until)), first.Until}
	}
	if !c.byHand || c.ended > 0 && len(own) == 0 {
		return nil
	}
	use, err := b.graceUse(ctx, s, p)
	if err != nil {
		return err
	}
	use.retired = slices.DeleteFunc(use.retired, func(old retired) bool {
		return slices.ContainsFunc(c.own[:c.ended], func(ended retired) bool { return ended.ID == old.ID })
	})
	limit := p.limitByHand(use.current)
	if len(own) > 0 {
		limit = max(1, limit-use.without) // each of the others can be rotated once
	}
	if len(use.retired) >= limit {
		first := use.retired[len(use.retired)-limit]
		return &graceFullError{badField(c.field, "%d replaced %s that take the same places are in their grace (%s), and a rotation on request must leave a place for others, so there may be %d; it is possible at %s, when the grace of the first ends", len(use.retired), kind, strings.Join(use.holders, ", "), limit, rfc3339(first.Until)), first.Until}
	}
	return nil
}

// makeRoom returns an error while there are too many replaced credentials in their grace for the role as it is to be to get another one. It
// removes those that have had their grace and, where the request says so, as many of the oldest ones of the role as it takes.
func (i *staticItem) makeRoom(ctx context.Context, role *staticRole) error {
	check := func(ended int) (graceCheck, error) {
		e := i.e
		c := graceCheck{field: keyGrace, what: fmt.Sprintf("static role %q", i.name), place: placeOf(&e.State.Current, e.ServicePrincipalID), ended: ended, byHand: i.byHand && role.Grace > 0}
		c.own = c.place.inGrace(e.State.Retired, e.ServicePrincipalID, i.b.now())
		if ended > 0 {
			// Those that can be removed come first.
			stays := func(old retired) bool { return e.pinned(&old) }
			goes := func(old retired) bool { return !stays(old) }
			c.own = slices.Concat(slices.DeleteFunc(slices.Clone(c.own), stays), slices.DeleteFunc(slices.Clone(c.own), goes))
		}
		return c, i.b.checkGrace(ctx, i.req.Storage, c)
	}
	c, err := check(0)
	var full *graceFullError
	if errors.As(err, &full) && len(c.own) > 0 && !i.b.now().Before(c.own[0].Until) {
		if err := i.followUp(ctx); err != nil {
			i.b.Logger().Warn("what has had its grace could not be removed", "name", i.name, "error", err)
		}
		c, err = check(0)
	}
	if !errors.As(err, &full) || !i.byHand {
		return err
	}
	removable := 0
	for _, old := range c.own {
		if !i.e.pinned(&old) {
			removable++
		}
	}
	switch {
	case removable == 0:
		return &graceFullError{fmt.Errorf("%w; none of them can make room here, but a rotation with rotation_grace_period=0 needs no place for longer", err), full.until}
	case !i.endOldest:
		return &graceFullError{fmt.Errorf("%w. To rotate now, send %s=true, which removes it at once", err, keyEndOldest), full.until}
	}
	// It is known beforehand that it suffices, so that no grace is ended for nothing.
	for n := 1; n <= removable; n++ {
		if c, err = check(n); !errors.As(err, &full) {
			break
		}
	}
	if err != nil {
		return err
	}
	for _, old := range c.own[:c.ended] {
		if err := i.endGrace(ctx, &old); err != nil {
			return err
		}
	}
	return nil
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
		own := p.inGrace(r.config.Rotation.Retired, "", r.b.now())
		// What static roles have in their grace doesn't keep the engine's own credential, which may have leaked, from being replaced.
		return r.b.checkGrace(ctx, r.req.Storage, graceCheck{field: "config", what: "the engine", place: p, own: own, byHand: r.byHand && len(own) > 0})
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
