// SPDX-License-Identifier: MPL-2.0

package databricks

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-databricks/internal/client"
	"vault-plugin-secrets-databricks/internal/credential"
	"vault-plugin-secrets-databricks/internal/marker"
)

const (
	// tidyGrace is how long past its end an object must be, to allow for clock differences and late revocations.
	tidyGrace = 10 * time.Minute

	// tidyStoredAge is how old a stored credential must be before it may count as garbage: more than any
	// rotation takes, at both clocks.
	tidyStoredAge = time.Hour

	// tidyBatch is after how many deletes a run checks again that the mount's connection has the same origin.
	tidyBatch = 50

	// tidyMaxFailures is after how many consecutive failed deletes a run gives up.
	tidyMaxFailures = 10

	// A run stores and logs its progress every tidySaveEvery deletes, and also stores it every tidySavePause.
	tidySaveEvery = 100
	tidySavePause = 5 * time.Second
)

// The kinds of things that a run looks for, as events and logs name them.
const (
	tidyToken            = "token"
	tidyServicePrincipal = "service_principal"
)

// tidyObject is an object at Databricks with the mark of one of the run's mounts.
type tidyObject struct {
	kind    string // tidyToken or tidyServicePrincipal
	id      string
	access  credential.Access
	mark    marker.Mark
	created time.Time // zero for unknown
}

func (o *tidyObject) remove(ctx context.Context, conn *connection) error {
	if o.kind == tidyServicePrincipal {
		return credential.DeletePrincipal(ctx, conn, o.id)
	}
	return credential.DeleteToken(ctx, conn, o.access, o.id)
}

// runTidy finds garbage and removes it. An error ends the run; a delete that fails does not.
func (b *backend) runTidy(ctx context.Context, run *tidyRun) error {
	b.Logger().Info("tidy begins", "host", run.conn.config.Host, "dry_run", run.dryRun, "automatic", run.automatic)
	b.event("tidy-start", "tidy", "dry_run", strconv.FormatBool(run.dryRun), "automatic", strconv.FormatBool(run.automatic))
	made, err := run.conn.origin(ctx)
	if err != nil {
		return err
	}
	// The lists come before the storage: a credential that is saved in between is then known to be owned, and one that is
	// created later is not in the lists.
	marked, err := b.listMarked(ctx, run)
	if err != nil {
		return err
	}
	var owned map[string]bool
	if slices.ContainsFunc(marked, func(o tidyObject) bool { return o.mark.Stored }) {
		owned, err = b.ownedNonces(ctx, run.storage)
	}
	if err != nil {
		return fmt.Errorf("nothing was removed, because the credentials that are still needed could not be read: %w", err)
	}
	now, err := b.tidyTime(run.conn)
	if err != nil {
		return fmt.Errorf("nothing was removed: %w", err)
	}
	var garbage []tidyObject
	failing := make(map[string]bool)
	for _, o := range marked {
		if b.isGarbage(&o, owned, now) {
			garbage = append(garbage, o)
			failing[o.id] = true
		}
	}
	b.tidy.keepFailures(failing)
	b.changeTidy(func(s *tidyStatus) {
		for _, o := range garbage {
			s.found(&o)
		}
	})
	if run.dryRun {
		return nil
	}
	// Objects that could not be removed the last time come last, so that they don't block the others.
	slices.SortStableFunc(garbage, func(x, y tidyObject) int { return b.tidy.failedBefore(x.id) - b.tidy.failedBefore(y.id) })
	if run.automatic && len(garbage) > tidyPerTick {
		garbage, run.more = garbage[:tidyPerTick], true
	}
	return b.removeGarbage(ctx, run, made, garbage)
}

// found counts an object and adds its id, unless the list has tidyMaxIDs already.
func (s *tidyStatus) found(o *tidyObject) {
	s.Found++
	ids := &s.Tokens
	if o.kind == tidyServicePrincipal {
		ids = &s.ServicePrincipals
	}
	if len(*ids) == tidyMaxIDs {
		s.Truncated = true
		return
	}
	*ids = append(*ids, o.id)
}

// listMarked lists the objects with a mark of the run's mounts: service principals and, unless the run is automatic or on an
// account mount, tokens.
func (b *backend) listMarked(ctx context.Context, run *tidyRun) ([]tidyObject, error) {
	var marked []tidyObject
	add := func(text string, o tidyObject) {
		if m, ok := marker.Parse(text); ok && slices.Contains(run.mounts, m.MountID) {
			o.mark = m
			marked = append(marked, o)
		}
	}
	tokensToo := !run.automatic && !run.conn.account
	if tokensToo {
		tokens, access, err := listTokensToTidy(ctx, run.conn)
		if err == nil {
			err = b.checkAlone(ctx, run.conn, tokens)
		}
		if err != nil {
			return nil, err
		}
		for _, token := range tokens {
			add(token.Comment, tidyObject{kind: tidyToken, id: token.TokenID, access: access, created: token.CreationTime})
		}
	}
	var principals []client.ServicePrincipal
	var err error
	for _, id := range run.mounts {
		var named []client.ServicePrincipal
		if named, err = run.conn.client.ServicePrincipalsNamed(ctx, marker.MountPrefix(id)); err != nil {
			break
		}
		principals = append(principals, named...)
	}
	// Without permission to list service principals, the run still removes tokens.
	if tokensToo && client.IsKind(err, client.PermissionDenied, client.ScopeMissing) {
		err = fmt.Errorf("service principals were left out: %w", err)
		b.Logger().Warn("tidy may not see everything", "error", err)
		b.changeTidy(func(s *tidyStatus) { s.LastError = err.Error() })
		return marked, nil
	}
	if err != nil {
		return nil, err
	}
	for _, principal := range principals {
		add(principal.DisplayName, tidyObject{kind: tidyServicePrincipal, id: principal.ID})
	}
	return marked, nil
}

// listTokensToTidy lists the tokens of all users if the engine's identity may do so, else those of the identity, and returns
// the access with which to delete them.
func listTokensToTidy(ctx context.Context, conn *connection) ([]client.TokenInfo, credential.Access, error) {
	identity, err := conn.whoami(ctx)
	if err != nil {
		return nil, credential.AccessNone, err
	}
	if identity.Admin {
		tokens, err := conn.client.ListManagedTokens(ctx)
		if !client.IsKind(err, client.PermissionDenied) {
			return tokens, credential.AccessAdmin, err
		}
	}
	tokens, err := conn.client.ListTokens(ctx)
	return tokens, credential.AccessOwn, err
}

// tidyTime returns the time by the clock that is behind, Vault's or Databricks': garbage is past its end by both.
func (b *backend) tidyTime(conn *connection) (time.Time, error) {
	now := b.now()
	offset, err := conn.clockOffset(now)
	return now.Add(min(offset, 0)), err
}

// isGarbage reports whether nothing holds the object any more, at a time that tidyTime returned. Owned has the nonces that this mount's
// log and storage entries hold, however long an object is past its end; of another mount's stored credentials only that mount knows.
func (b *backend) isGarbage(o *tidyObject, owned map[string]bool, now time.Time) bool {
	if _, busy := b.inFlight.Load(o.mark.Nonce); busy || o.mark.Stored && owned[o.mark.Nonce] {
		return false
	}
	if now.After(o.mark.Until.Add(tidyGrace)) {
		return true
	}
	return o.mark.Stored && o.mark.MountID == b.mountID && !o.created.IsZero() && now.After(o.created.Add(tidyStoredAge))
}

// removeGarbage removes the objects one after the other, and records failures in the status.
func (b *backend) removeGarbage(ctx context.Context, run *tidyRun, made origin, garbage []tidyObject) error {
	conn, inARow := run.conn, 0
	saved := time.Now()
	for i, o := range garbage {
		if err := ctx.Err(); err != nil {
			return err
		}
		if i%tidyBatch == 0 {
			var err error
			if conn, err = b.sameConnection(ctx, run.storage, made); err != nil {
				return err
			}
		}
		err := o.remove(ctx, conn)
		if err != nil && ctx.Err() != nil {
			return err
		}
		if err != nil {
			inARow++
			b.tidy.failures.Store(o.id, true)
			b.Logger().Warn("tidy could not remove something", "kind", o.kind, "id", o.id, "error", err)
			b.changeTidy(func(s *tidyStatus) { s.Failed++; s.LastError = err.Error() })
		} else {
			inARow = 0
			b.tidy.failures.Delete(o.id)
			b.changeTidy(func(s *tidyStatus) { s.Deleted++ })
			b.event("tidy-delete", "tidy", "kind", o.kind, "id", o.id)
		}
		if inARow == tidyMaxFailures {
			return fmt.Errorf("gave up after %d failures in a row: %w", tidyMaxFailures, err)
		}
		if hundred := (i+1)%tidySaveEvery == 0; hundred || time.Since(saved) > tidySavePause {
			saved = time.Now()
			if hundred {
				b.Logger().Info("tidy continues", "done", i+1, "of", len(garbage))
			}
			if err := b.saveTidy(ctx, run.storage); err != nil {
				b.Logger().Warn("how far tidy has come could not be stored", "error", err)
			}
		}
	}
	return nil
}

// keepFailures forgets the failures of all other objects.
func (t *tidying) keepFailures(ids map[string]bool) {
	t.failures.Range(func(id, _ any) bool {
		if !ids[id.(string)] {
			t.failures.Delete(id)
		}
		return true
	})
}

// failedBefore returns 1 if the object could not be removed the last time, else 0.
func (t *tidying) failedBefore(id string) int {
	if _, failed := t.failures.Load(id); failed {
		return 1
	}
	return 0
}

// sameConnection returns the mount's present connection, if it leads to the same workspace as the same identity: elsewhere, what is
// to be removed would seem to be gone.
func (b *backend) sameConnection(ctx context.Context, s logical.Storage, made origin) (*connection, error) {
	conn, err := b.connection(ctx, s)
	if err != nil {
		return nil, err
	}
	now, err := conn.origin(ctx)
	if err != nil {
		return nil, err
	}
	if now != made {
		return nil, errors.New("the mount's connection was changed to another host, workspace or identity meanwhile; run it again")
	}
	return conn, nil
}
