// SPDX-License-Identifier: MPL-2.0

package databricks

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"
	"vault-plugin-secrets-databricks/internal/client"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"
	"golang.org/x/sync/errgroup"
)

// push is one bulk write. Its keys are written concurrently, so mu guards done, failed and first.
type push struct {
	space secretSpace
	puts  map[string]secretValue
	sent  map[string]string // the keys by their lower case: Databricks ignores the case
	prune bool

	listed  map[string]bool // lower case of the keys that Databricks has listed; nil where it wasn't asked
	surplus []string        // keys to delete, which were neither sent nor are held by the mount

	mu      sync.Mutex
	done    map[string][]string     // keys by what was done to them: keyWritten, keyDeleted, keyKept
	failed  map[string]*pushFailure // by their message without its request id
	first   error                   // the first failure, which decides the status of the response
	started time.Time
}

// pushFailure is a reason and the keys that failed for it.
type pushFailure struct {
	message string // the first one, with its request id
	keys    []string
}

// pushed returns the response of a push.
func pushed(written, deleted, kept []string) *logical.Response {
	return &logical.Response{Data: map[string]any{
		keyWritten: append([]string{}, written...),
		keyDeleted: append([]string{}, deleted...),
		keyKept:    append([]string{}, slices.Sorted(slices.Values(kept))...),
	}}
}

// pushOf returns the bulk write of a request. It validates all of it before anything is sent to Databricks.
func pushOf(data *framework.FieldData) (*push, error) {
	space, err := secretSpaceOf(data)
	if err != nil {
		return nil, err
	}
	p := &push{
		space:   space,
		prune:   data.Get(keyPrune).(bool),
		puts:    make(map[string]secretValue),
		sent:    make(map[string]string),
		done:    make(map[string][]string),
		failed:  make(map[string]*pushFailure),
		started: time.Now(),
	}
	rules := space.ref("").rules()
	for field, read := range map[string]func(field, text string) (secretValue, error){keySecrets: rules.stringValue, keyBytes: rules.bytesValue} {
		for key, raw := range data.Get(field).(map[string]any) {
			if !space.valid(key) {
				// The key isn't shown: it may be a value that was sent in its place by mistake.
				return nil, badField(field, "a key of %d characters is no valid name; use %s", len(key), space.rule())
			}
			text, ok := raw.(string)
			if !ok {
				return nil, badField(field, "the value of %q is %s; send a string", key, jsonType(raw))
			}
			if _, twice := p.puts[key]; twice {
				return nil, badField(field, "%q is in both %s and %s; send it in one of them", key, keySecrets, keyBytes)
			}
			if other := p.sent[strings.ToLower(key)]; other != "" {
				return nil, badField(field, "%q and %q are two spellings of one key, since Databricks ignores the case; send it once", min(key, other), max(key, other))
			}
			value, err := read(fmt.Sprintf("%s: %q", field, key), text)
			if err != nil {
				return nil, err
			}
			p.puts[key], p.sent[strings.ToLower(key)] = value, key
		}
	}
	switch {
	case len(p.puts) == 0 && p.prune:
		return nil, badField(keyPrune, "with no secrets sent it would empty the %s; send at least one, or delete the %s", space.kind(), space.kind())
	case len(p.puts) == 0:
		return nil, badField(keySecrets, "is missing; send a map of key to string as %s, or of key to base64 as %s", keySecrets, keyBytes)
	case len(p.puts) > space.most():
		return nil, badField(keySecrets, "%d keys were sent; a %s has at most %d", len(p.puts), space.kind(), space.most())
	}
	return p, nil
}

// planPrune decides which of the listed keys a push with prune deletes, and which it keeps because the mount holds them, or because their
// names can't be sent.
func (b *backend) planPrune(ctx context.Context, s logical.Storage, conn *connection, p *push, listed []client.SecretInfo) error {
	if !p.prune {
		return nil
	}
	if err := b.intents.load(ctx, s, b.now()); err != nil {
		return err
	}
	delivered, err := b.staticDeliveries(ctx, s)
	if err != nil {
		return err
	}
	for _, secret := range listed {
		ref := p.space.ref(secret.Key)
		if p.sent[strings.ToLower(secret.Key)] != "" {
			continue
		}
		held := delivered[ref.canonical()] || !p.space.valid(secret.Key) // nobody could have sent it
		if !held {
			if held, err = b.isLeased(ctx, s, conn, ref); err != nil {
				return err
			}
		}
		if held {
			p.done[keyKept] = append(p.done[keyKept], secret.Key)
		} else {
			p.surplus = append(p.surplus, secret.Key)
		}
	}
	slices.Sort(p.surplus)
	slices.Sort(p.done[keyKept])
	return nil
}

// each calls do for every key, bulkConcurrency at a time, and records the outcomes. Once ctx ends or an error is hopeless, the
// remaining keys fail for the same reason.
func (p *push) each(ctx context.Context, b *backend, what string, keys []string, do func(ctx context.Context, key string) error) {
	if len(keys) == 0 {
		return
	}
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	finished := make(chan struct{})
	defer close(finished)
	go p.logProgress(b, what, len(keys), finished)

	var group errgroup.Group
	group.SetLimit(bulkConcurrency)
	for _, key := range keys {
		group.Go(func() (err error) {
			// A panic in a goroutine would crash every mount of the process.
			defer func() {
				if v := recover(); v != nil {
					err = p.fail(key, fmt.Errorf("the engine failed on this key: %T", v))
				}
			}()
			if ctx.Err() != nil {
				return p.fail(key, context.Cause(ctx))
			}
			outcome := what
			err = do(ctx, key)
			if errors.Is(err, errHeld) {
				outcome = keyKept
			} else if err != nil {
				if ctx.Err() != nil && errors.Is(err, context.Canceled) {
					err = context.Cause(ctx) // the reason for stopping, rather than that it was stopped
				}
				if failsForAll(err) {
					stop(err)
				}
				return p.fail(key, err)
			}
			p.mu.Lock()
			defer p.mu.Unlock()
			p.done[outcome] = append(p.done[outcome], key)
			return nil
		})
	}
	_ = group.Wait() // every failure is in p
	slices.Sort(p.done[what])
	b.Logger().Info("pushed secrets", p.space.log(what, len(p.done[what]), "of", len(keys), "took", time.Since(p.started).Round(time.Millisecond).String())...)
}

// logProgress logs the progress of a push until finished is closed, in numbers only.
func (p *push) logProgress(b *backend, what string, total int, finished <-chan struct{}) {
	ticker := time.NewTicker(bulkProgress)
	defer ticker.Stop()
	for {
		select {
		case <-finished:
			return
		case <-ticker.C:
			p.mu.Lock()
			done := len(p.done[what])
			p.mu.Unlock()
			b.Logger().Info("pushing secrets", p.space.log(what, done, "of", total)...)
		}
	}
}

// fail records why a key failed, and returns err.
func (p *push) fail(key string, err error) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.first == nil {
		p.first = err
	}
	reason := withoutRequestIDs(err.Error())
	if p.failed[reason] == nil {
		p.failed[reason] = &pushFailure{message: err.Error()}
	}
	p.failed[reason].keys = append(p.failed[reason].keys, key)
	return err
}

// failure returns the error of a push, with the keys that failed and the reasons.
func (p *push) failure(total int) error {
	var parts []string
	count := 0
	for _, reason := range slices.Sorted(maps.Keys(p.failed)) {
		failed := p.failed[reason]
		slices.Sort(failed.keys)
		count += len(failed.keys)
		parts = append(parts, fmt.Sprintf("%s: %s", strings.Join(failed.keys, ", "), failed.message))
	}
	return &pushError{
		text: fmt.Sprintf("%d of %d keys failed, %d were written and %d deleted; write the same again to finish. Failed: %s",
			count, total, len(p.done[keyWritten]), len(p.done[keyDeleted]), strings.Join(parts, "; ")),
		first: p.first,
	}
}

// pushError describes all failures of a push. It unwraps to the first, which decides its status.
type pushError struct {
	text  string
	first error
}

func (e *pushError) Error() string { return e.text }

func (e *pushError) Unwrap() error { return e.first }

// failsForAll reports whether what failed for one key will fail for all.
func failsForAll(err error) bool {
	var remote *client.Error
	if !errors.As(err, &remote) {
		return true
	}
	if remote.Kind == client.PermissionDenied && (remote.Op == "uc-secrets/update" || remote.Op == "uc-secrets/delete") {
		return false // each secret there has an owner and privileges of its own; that to create them is the schema's
	}
	switch remote.Kind {
	case client.Unauthenticated, client.PermissionDenied, client.NetworkDenied, client.NotInWorkspace, client.ScopeMissing, client.NotFound, client.Canceled:
		return true
	default:
		return false
	}
}
