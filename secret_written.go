// SPDX-License-Identifier: MPL-2.0

package databricks

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"
	"vault-plugin-secrets-databricks/internal/client"

	"github.com/hashicorp/vault/sdk/logical"
)

const (
	// confirmTimeout is how long the timestamp of a secret that was just written is waited for: lists may lag behind.
	confirmTimeout = 10 * time.Second

	// coarsestTime is the coarsest unit in which Databricks tells the time of a write.
	coarsestTime = time.Second
)

// seenSecret is what Databricks says of a secret. Of one in a scope, it is the time alone.
type seenSecret struct {
	updated time.Time        // of the last write; zero where Databricks doesn't say
	uc      *client.UCSecret // nil for a secret in a scope
}

// writtenSecret is a secret that the engine wrote and will delete, unless somebody has overwritten it since. Databricks has no
// versions of secrets, so the timestamp identifies the write.
type writtenSecret struct {
	secretRef
	Updated time.Time `json:"updated"` // as Databricks reports it: in a scope to the millisecond

	// UpdatedBy and Metastore say of a secret in Unity Catalog who wrote it and where it is, as Databricks reports it; else empty.
	UpdatedBy string `json:"updated_by,omitempty"`
	Metastore string `json:"metastore_id,omitempty"`

	owner string // of a secret in Unity Catalog that was written just now
}

// secretIntent is a secret that is about to be written, and will be deleted later. It holds no value.
type secretIntent struct {
	secretRef
	Before time.Time `json:"before"` // when it was last written before that, zero for never

	// Writer is who writes a secret in Unity Catalog: Databricks' name of the engine's identity.
	Writer string `json:"writer,omitempty"`

	// IfAbsent is set where one that somebody has stored meanwhile must not be overwritten.
	IfAbsent bool `json:"if_absent,omitempty"`

	// Contested is set when Databricks has turned the write of a secret in Unity Catalog away, although an attempt may have had an effect: what
	// is there is more likely somebody else's, and only its value can tell.
	Contested bool `json:"contested,omitempty"`
}

// matches reports whether what is seen can be what a put stored in the window. In Unity Catalog, it must have been written by the engine's
// identity and, where nothing was to be overwritten, created.
func (in *secretIntent) matches(seen *seenSecret, put window) bool {
	if seen.updated.Equal(in.Before) || !put.has(seen.updated) {
		return false
	}
	if seen.uc == nil {
		return true
	}
	return in.wrote(seen.uc.UpdatedBy) && (!in.IfAbsent || in.wrote(seen.uc.CreatedBy) && put.has(seen.uc.Created))
}

// wrote reports whether the principal is known to be the one that writes.
func (in *secretIntent) wrote(principal string) bool {
	return in.Writer != "" && strings.EqualFold(principal, in.Writer)
}

// stored reports whether what is seen can be the value that was to be written, as far as it tells who has written it and what.
func (in *secretIntent) stored(seen *seenSecret, value client.Secret) bool {
	return seen.uc == nil || in.wrote(seen.uc.UpdatedBy) && (seen.uc.Value == nil || *seen.uc.Value == value)
}

// unproven reports whether it can't be told if the engine's write or somebody else's stored what is seen in Unity Catalog.
func (in *secretIntent) unproven(seen *seenSecret) bool {
	uc := seen.uc
	if uc == nil {
		return false
	}
	for _, by := range []string{uc.UpdatedBy, uc.CreatedBy} {
		if by != "" && in.Writer != "" && !in.wrote(by) {
			return false // it is somebody else's, or was somebody else's before
		}
		if !in.IfAbsent {
			break
		}
	}
	return in.Writer == "" || uc.UpdatedBy == "" || in.IfAbsent && uc.CreatedBy == "" || in.Contested && uc.Value == nil
}

// prepareWrite notes what a rollback of the write must know, and returns what is there before it, nil for nothing. The caller holds the secret's
// lock.
func (b *backend) prepareWrite(ctx context.Context, s logical.Storage, conn *connection, in *secretIntent) (*seenSecret, error) {
	if in.UC != "" {
		who, err := conn.whoami(ctx)
		if err != nil {
			return nil, err
		}
		in.Writer = who.UserName
	}
	seen, err := b.lookBefore(ctx, s, conn, in.secretRef)
	if err != nil {
		return nil, in.explain(err, permissionRead)
	}
	if seen != nil {
		in.Before = seen.updated
	}
	return seen, nil
}

// lookBefore looks at a secret that is to be written, nil for none. Where the write could get the time of the one before, or of a leased one that
// was deleted since, it waits first: it goes by those times whose value is there.
func (b *backend) lookBefore(ctx context.Context, s logical.Storage, conn *connection, ref secretRef) (*seenSecret, error) {
	seen, err := lookAt(ctx, conn, ref)
	if err != nil || ref.UC == "" {
		return seen, err
	}
	var last time.Time
	if seen != nil {
		last = seen.updated
	} else if last, err = b.lastLeased(ctx, s, ref); err != nil {
		return nil, err
	}
	if last.IsZero() || !last.Equal(last.Truncate(coarsestTime)) {
		return seen, nil
	}
	now := b.now()
	if remote := conn.remote(now, now); !remote.IsZero() && remote.Sub(last) > clockTolerance {
		return seen, nil
	}
	return seen, client.Sleep(ctx, coarsestTime)
}

// lastLeased returns when the secret was last written for a lease that has not ended, as Databricks reports it, zero for never.
func (b *backend) lastLeased(ctx context.Context, s logical.Storage, ref secretRef) (last time.Time, err error) {
	for _, id := range b.intents.of(ref, &b.inFlight) {
		in, err := readIntent(ctx, s, id)
		if err != nil {
			return last, err
		}
		if in != nil && in.Written != nil && in.Written.Updated.After(last) {
			last = in.Written.Updated
		}
	}
	return last, nil
}

// confirmWrite returns what it takes to delete again what the intent has stored. Where the answer to the write tells that, stored is that answer.
// Else it waits until Databricks lists the secret.
func confirmWrite(ctx context.Context, conn *connection, in *secretIntent, stored *client.UCSecret) (*writtenSecret, error) {
	ref := in.secretRef
	if stored != nil && !stored.Updated.IsZero() {
		return ref.writtenAs(&seenSecret{stored.Updated, stored}), nil
	}
	deadline := time.Now().Add(confirmTimeout)
	for wait := 100 * time.Millisecond; ; wait *= 2 {
		seen, err := lookAt(ctx, conn, ref)
		if err != nil {
			return nil, ref.explain(err, permissionRead)
		}
		if seen != nil && !seen.updated.IsZero() && !seen.updated.Equal(in.Before) {
			if uc := seen.uc; uc != nil && uc.UpdatedBy != "" && !in.wrote(uc.UpdatedBy) {
				return nil, logical.CodedError(http.StatusConflict, fmt.Sprintf("secret %s was stored, but %s has changed it since, so it is left as it is; try again, or use another name", ref, uc.UpdatedBy))
			}
			return ref.writtenAs(seen), nil
		}
		if time.Now().Add(wait).After(deadline) {
			return nil, logical.CodedError(http.StatusBadGateway, fmt.Sprintf("secret %s was stored, but Databricks does not list it, so it could not be told apart from what others write there; it will be removed again", ref))
		}
		if err := client.Sleep(ctx, wait); err != nil {
			return nil, err
		}
	}
}

// writtenAs returns what is seen as a write of the engine.
func (p secretRef) writtenAs(seen *seenSecret) *writtenSecret {
	written := &writtenSecret{secretRef: p, Updated: seen.updated}
	if seen.uc != nil {
		written.UpdatedBy, written.Metastore, written.owner = seen.uc.UpdatedBy, seen.uc.Metastore, seen.uc.Owner
	}
	return written
}

// warnings returns what the holder of the lease should know: only the owner of a secret in Unity Catalog can delete it.
func (w *writtenSecret) warnings(conn *connection) []string {
	who := conn.cachedIdentity()
	if w.owner == "" || who == nil || strings.EqualFold(w.owner, who.UserName) || slices.Contains(who.Groups, w.owner) {
		return nil
	}
	return []string{fmt.Sprintf("%s belongs to %s. If the engine's identity may not delete it, the end of the lease will fail, and the value stays: let the owner give it to %s, or lease secrets under names of their own.", w.secretRef, w.owner, who.UserName)}
}

// isSeen reports whether what is seen is still what the engine wrote.
func (w *writtenSecret) isSeen(seen *seenSecret) bool {
	if !seen.updated.Equal(w.Updated) {
		return false
	}
	return seen.uc == nil || w.UpdatedBy == "" || seen.uc.UpdatedBy == "" || w.UpdatedBy == seen.uc.UpdatedBy
}

// removeWritten is removeWrittenLocked with the secret's lock.
func (b *backend) removeWritten(ctx context.Context, conn *connection, secret *writtenSecret) error {
	unlock, err := b.secretLocks.Lock(ctx, secret.canonical())
	if err != nil {
		return err
	}
	defer unlock()
	return b.removeWrittenLocked(ctx, conn, secret)
}

// removeWrittenLocked deletes a secret if it is still the one that the engine wrote. The caller holds its lock.
func (b *backend) removeWrittenLocked(ctx context.Context, conn *connection, secret *writtenSecret) error {
	seen, err := lookAt(ctx, conn, secret.secretRef)
	if err != nil {
		return secret.explain(err, permissionRead)
	}
	if seen == nil {
		return nil
	}
	return b.removeSeen(ctx, conn, secret, seen)
}

// removeSeen is removeWrittenLocked for a secret that Databricks shows as given.
func (b *backend) removeSeen(ctx context.Context, conn *connection, secret *writtenSecret, seen *seenSecret) error {
	if uc := seen.uc; uc != nil && secret.Metastore != "" && uc.Metastore != "" && secret.Metastore != uc.Metastore {
		return fmt.Errorf("secret %s was written in metastore %s, but the workspace is attached to %s now, where the name means another secret, which is left alone; delete the first one by hand, or attach the workspace to its metastore again", secret.secretRef, secret.Metastore, uc.Metastore)
	}
	if seen.updated.IsZero() {
		return errNoTimestamp(secret.secretRef)
	}
	if !secret.isSeen(seen) {
		b.Logger().Warn("a leased secret was overwritten since, so it is left alone", append(secret.logNames(), "written", rfc3339(secret.Updated), "overwritten", rfc3339(seen.updated))...)
		return nil
	}
	// A request that is repeated must not delete what somebody has stored since the first.
	still := func(ctx context.Context) (bool, error) {
		seen, err := lookAt(ctx, conn, secret.secretRef)
		return seen != nil && secret.isSeen(seen), err
	}
	if err := secret.remove(ctx, conn, still); err != nil && !client.IsGone(err) {
		return secret.explain(err, permissionWrite)
	}
	return nil
}

// errNoTimestamp returns the error for a secret whose writer can't be told.
func errNoTimestamp(ref secretRef) error {
	return logical.CodedError(http.StatusBadGateway, fmt.Sprintf("secret %s is listed without the time of its last write, so it isn't known whose it is", ref))
}

// removeUnconfirmed deletes a secret that was, or may have been, stored with the value a moment ago by the operation of the intent. It fails when
// Databricks does not show it: it may do so later, so that is left to the rollback. The caller holds the secret's lock.
func (b *backend) removeUnconfirmed(ctx context.Context, conn *connection, op *intent, value secretValue) error {
	in := op.Secret
	seen, err := lookAtValue(ctx, conn, in.secretRef)
	if err != nil {
		return in.explain(err, permissionRead)
	}
	if seen == nil || seen.updated.IsZero() || seen.updated.Equal(in.Before) {
		return fmt.Errorf("secret %s may have been stored, but is not listed yet", in.secretRef)
	}
	if seen.uc != nil {
		put, err := conn.writeWindow(b.now(), op.Started, op.StartedRemote)
		if err != nil {
			return err
		}
		theirs := seen.uc.Value != nil && *seen.uc.Value != value.text
		if theirs || in.unproven(seen) || !in.matches(seen, put) {
			b.leaveSecret(in, !theirs && in.unproven(seen))
			return nil
		}
	}
	return b.removeSeen(ctx, conn, in.writtenAs(seen), seen)
}

// leaveSecret reports a secret that a write which was not completed may have stored, and that is left alone: it is somebody else's or,
// where that is unproven, may be.
func (b *backend) leaveSecret(in *secretIntent, unproven bool) {
	if unproven {
		b.Logger().Error("a write that was not completed may have stored a secret, but it can't be told whether what is there now is somebody else's, so it is left alone: if it is nobody's, delete it by hand", in.logNames()...)
		return
	}
	b.Logger().Warn("a secret whose write was not completed was written by somebody else since, so it is left alone", in.logNames()...)
}
