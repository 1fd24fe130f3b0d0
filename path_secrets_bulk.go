// SPDX-License-Identifier: MPL-2.0

package databricks

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"
	"golang.org/x/sync/errgroup"

	"vault-plugin-secrets-databricks/internal/client"
)

const (
	keySecrets = "secrets"
	keyBytes   = "bytes"
	keyPrune   = "prune"
	keyDryRun  = "dry_run"
	keyWritten = "written"
	keyDeleted = "deleted"

	// bulkConcurrency is how many secrets are on their way at once; the client's rate limit holds all the same.
	bulkConcurrency = 16

	// bulkProgress is how often the log tells how far a push is.
	bulkProgress = 5 * time.Second
)

func (b *backend) pathSecretsBulk() *framework.Path {
	return &framework.Path{
		Pattern: "secrets/(?P<" + keyScope + ">[^/]+)/?",
		DisplayAttrs: &framework.DisplayAttributes{
			OperationPrefix: "databricks",
			OperationSuffix: "secrets",
		},
		Fields: map[string]*framework.FieldSchema{
			keyScope: {
				Type:        framework.TypeString,
				Description: "Name of the scope.",
				Required:    true,
			},
			keySecrets: {
				Type:         framework.TypeMap,
				Description:  "Texts to store, by key. 1,000 keys at most.",
				DisplayAttrs: &framework.DisplayAttributes{Sensitive: true},
			},
			keyBytes: {
				Type:         framework.TypeMap,
				Description:  "Bytes to store, in base64, by key. Together with secrets 1,000 keys at most.",
				DisplayAttrs: &framework.DisplayAttributes{Sensitive: true},
			},
			keyPrune: {
				Type:        framework.TypeBool,
				Description: "Delete the keys of the scope that were not sent, once all that were sent are stored; earlier only as far as a full scope needs room.",
			},
			keyDryRun: {
				Type:        framework.TypeBool,
				Description: "Only tell what would be written and deleted.",
			},
		},
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.ListOperation: &framework.PathOperation{
				Callback:  b.listSecrets,
				Summary:   "List the keys of a scope.",
				Responses: map[int][]framework.Response{http.StatusOK: {{Description: "OK", Fields: listResponseFields}}},
			},
			logical.UpdateOperation: b.writeOperation(b.pushSecrets, "Store many secrets at once.",
				[]framework.Response{{Description: "The keys that were written and deleted.", Fields: map[string]*framework.FieldSchema{
					keyWritten: {Type: framework.TypeStringSlice, Required: true, Description: "Keys that were stored."},
					keyDeleted: {Type: framework.TypeStringSlice, Required: true, Description: "Keys that were deleted."},
				}}},
				framework.RequestExample{
					Description: "Make the scope equal to what is sent.",
					Data:        map[string]any{keySecrets: map[string]any{"user": "etl", "password": "s3cr3t"}, keyPrune: true},
				}),
		},
		HelpSynopsis:    "The secrets of a scope, listed or stored at once.",
		HelpDescription: strings.TrimSpace(bulkHelp),
	}
}

func (b *backend) listSecrets(ctx context.Context, req *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	scope := data.Get(keyScope).(string)
	if err := checkName(keyScope, scope); err != nil {
		return nil, err
	}
	conn, err := b.connection(ctx, req.Storage)
	if err != nil {
		return nil, err
	}
	secrets, err := conn.client.ListSecrets(ctx, scope)
	if isGone(err) {
		return nil, nil
	}
	if err != nil {
		return nil, explainSecrets(err, scope, permissionRead)
	}
	names, infos := make([]string, 0, len(secrets)), make(map[string]any, len(secrets))
	for _, secret := range secrets {
		names = append(names, secret.Key)
		infos[secret.Key] = map[string]any{keyLastUpdated: rfc3339(secret.Updated)}
	}
	return logical.ListResponseWithInfo(names, infos), nil
}

// push is one bulk write.
type push struct {
	scope string
	puts  map[string]secretValue
	sent  map[string]bool // the keys in lower case: Databricks ignores their case
	prune bool

	mu      sync.Mutex
	done    map[string][]string     // keys by what was done to them: keyWritten, keyDeleted
	failed  map[string]*pushFailure // by their message without its request id
	first   error                   // the first failure, which decides the status of the answer
	started time.Time
}

// pushFailure is a reason for which keys failed.
type pushFailure struct {
	message string // the first one, with its request id
	keys    []string
}

// pushSecrets stores what was sent and, with prune, deletes the rest. The values that are there can't be compared with
// what was sent, so every key that was sent is written. A failure of some keys fails the call, and a repetition finishes it.
func (b *backend) pushSecrets(ctx context.Context, req *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	p, err := pushOf(data)
	if err != nil {
		return nil, err
	}
	conn, err := b.connection(ctx, req.Storage)
	if err != nil {
		return nil, err
	}
	var surplus []string
	room := client.MaxSecretsPerScope
	if p.prune || data.Get(keyDryRun).(bool) {
		listed, err := conn.client.ListSecrets(ctx, p.scope)
		if err != nil {
			return nil, explainSecrets(err, p.scope, permissionWrite)
		}
		for _, secret := range listed {
			if p.prune && !p.sent[strings.ToLower(secret.Key)] {
				surplus = append(surplus, secret.Key)
			}
		}
		slices.Sort(surplus)
		room -= len(surplus)
	}
	keys := slices.Sorted(maps.Keys(p.puts))
	if data.Get(keyDryRun).(bool) {
		return pushed(keys, surplus), nil
	}

	remove := func(ctx context.Context, key string) error {
		if err := conn.client.DeleteSecret(ctx, p.scope, key); err != nil && !isGone(err) {
			return explainSecrets(err, p.scope, permissionWrite)
		}
		return nil
	}
	// What is surplus goes last, but for what has to make room in a scope that would get too full.
	first := min(max(len(keys)-room, 0), len(surplus))
	p.each(ctx, b, keyDeleted, surplus[:first], remove)
	if p.first == nil {
		p.each(ctx, b, keyWritten, keys, func(ctx context.Context, key string) error {
			return b.putForGood(ctx, req.Storage, conn, secretPlace{Scope: p.scope, Key: key}, p.puts[key])
		})
	}
	if p.first == nil {
		p.each(ctx, b, keyDeleted, surplus[first:], remove)
	}
	if n := len(p.done[keyWritten]) + len(p.done[keyDeleted]); n > 0 {
		b.event(context.WithoutCancel(ctx), "secrets-push", req.Path, "scope", p.scope, "written", fmt.Sprint(len(p.done[keyWritten])), "deleted", fmt.Sprint(len(p.done[keyDeleted])))
	}
	if p.first != nil {
		return nil, p.failure(len(keys) + len(surplus))
	}
	return pushed(p.done[keyWritten], p.done[keyDeleted]), nil
}

func pushed(written, deleted []string) *logical.Response {
	return &logical.Response{Data: map[string]any{
		keyWritten: append([]string{}, written...),
		keyDeleted: append([]string{}, deleted...),
	}}
}

// pushOf reads a bulk write and checks all of it before anything is sent.
func pushOf(data *framework.FieldData) (*push, error) {
	p := &push{
		scope:   data.Get(keyScope).(string),
		prune:   data.Get(keyPrune).(bool),
		puts:    make(map[string]secretValue),
		sent:    make(map[string]bool),
		done:    make(map[string][]string),
		failed:  make(map[string]*pushFailure),
		started: time.Now(),
	}
	if err := checkName(keyScope, p.scope); err != nil {
		return nil, err
	}
	for field, read := range map[string]func(field, text string) (secretValue, error){keySecrets: stringValue, keyBytes: bytesValue} {
		for key, raw := range data.Get(field).(map[string]any) {
			if checkName(field, key) != nil {
				// It isn't shown, since it may be a value that was sent in the place of its key.
				return nil, badField(field, "a key of %d characters is no valid name; use 1 to 128 letters, digits, dashes, underscores, periods and @", len(key))
			}
			text, ok := raw.(string)
			if !ok {
				return nil, badField(field, "the value of %q is a %T; send a string", key, raw)
			}
			if _, twice := p.puts[key]; twice {
				return nil, badField(field, "%q is in both %s and %s; send it in one of them", key, keySecrets, keyBytes)
			}
			if p.sent[strings.ToLower(key)] {
				return nil, badField(field, "%q was sent in two spellings, which Databricks takes for the same key; send it once", key)
			}
			value, err := read(fmt.Sprintf("%s: %q", field, key), text)
			if err != nil {
				return nil, err
			}
			p.puts[key], p.sent[strings.ToLower(key)] = value, true
		}
	}
	switch {
	case len(p.puts) == 0 && p.prune:
		return nil, badField(keyPrune, "with no secrets sent it would empty the scope; send at least one, or delete the scope")
	case len(p.puts) == 0:
		return nil, badField(keySecrets, "is missing; send a map of key to text as %s, or of key to base64 as %s", keySecrets, keyBytes)
	case len(p.puts) > client.MaxSecretsPerScope:
		return nil, badField(keySecrets, "%d keys were sent; a scope has at most %d", len(p.puts), client.MaxSecretsPerScope)
	}
	return p, nil
}

// each does something to every key, several at once, until the caller goes away or it is plain that nothing will work.
func (p *push) each(ctx context.Context, b *backend, what string, keys []string, do func(ctx context.Context, key string) error) {
	if len(keys) == 0 {
		return
	}
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	finished := make(chan struct{})
	defer close(finished)
	go p.tell(b, what, len(keys), finished)

	var group errgroup.Group
	group.SetLimit(bulkConcurrency)
	for _, key := range keys {
		group.Go(func() (err error) {
			// The panic of a goroutine would end every mount of the process.
			defer func() {
				if v := recover(); v != nil {
					err = p.fail(key, fmt.Errorf("the engine failed on this key: %T", v))
				}
			}()
			if ctx.Err() != nil {
				return p.fail(key, context.Cause(ctx))
			}
			if err := do(ctx, key); err != nil {
				if ctx.Err() != nil && errors.Is(err, context.Canceled) {
					err = context.Cause(ctx) // what stopped this key, rather than that it was stopped
				}
				if hopeless(err) {
					stop(err)
				}
				return p.fail(key, err)
			}
			p.mu.Lock()
			defer p.mu.Unlock()
			p.done[what] = append(p.done[what], key)
			return nil
		})
	}
	_ = group.Wait() // every failure is in p
	slices.Sort(p.done[what])
	b.Logger().Info("pushed secrets", "scope", p.scope, what, len(p.done[what]), "of", len(keys), "took", time.Since(p.started).Round(time.Millisecond).String())
}

// tell logs how far a push is, in numbers only.
func (p *push) tell(b *backend, what string, total int, finished <-chan struct{}) {
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
			b.Logger().Info("pushing secrets", "scope", p.scope, what, done, "of", total)
		}
	}
}

// requestID is how errors end that came with an answer; it tells apart what is the same reason.
var requestID = regexp.MustCompile(` \[request id [^\]]*\]$`)

func (p *push) fail(key string, err error) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.first == nil {
		p.first = err
	}
	reason := requestID.ReplaceAllString(err.Error(), "")
	if p.failed[reason] == nil {
		p.failed[reason] = &pushFailure{message: err.Error()}
	}
	p.failed[reason].keys = append(p.failed[reason].keys, key)
	return err
}

// failure is the error of a push of which some keys failed: which, and why.
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

// pushError tells all of a push's failures and is of the kind of the first.
type pushError struct {
	text  string
	first error
}

func (e *pushError) Error() string { return e.text }

func (e *pushError) Unwrap() error { return e.first }

// hopeless tells whether what failed for one key will fail for all.
func hopeless(err error) bool {
	var remote *client.Error
	if !errors.As(err, &remote) {
		return true
	}
	switch remote.Kind {
	case client.Unauthenticated, client.PermissionDenied, client.NotFound, client.Canceled:
		return true
	default:
		return false
	}
}

const bulkHelp = `
Stores many secrets in one call, several at a time. With prune=true the scope
holds exactly what was sent afterwards; dry_run=true only tells what would
happen. When some keys fail, the call fails, says which and why, and the same
call again finishes the work.

  vault list -detailed databricks/secrets/etl
  vault write databricks/secrets/etl - <<< '{"secrets": {"user": "etl", "password": "…"}, "prune": true}'
`
