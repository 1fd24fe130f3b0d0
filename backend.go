// SPDX-License-Identifier: MPL-2.0

// Package databricks is a secrets engine for HashiCorp Vault. A mount of it stands for one Databricks workspace: it mints
// short-lived Databricks credentials as Vault leases and revokes them when the lease ends.
//
// Data flows one way: Vault calls a path (path_*.go, which know Vault and no HTTP), a path uses a credential type
// (credential*.go, which know both sides' nouns and no paths), and a credential type uses internal/client (which knows
// Databricks and no Vault). What must survive a crash between the two sides is written down first, in wal.go; how long
// things live is decided in lease.go and nowhere else.
package databricks

import (
	"context"
	"errors"
	"runtime"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/helper/consts"
	"github.com/hashicorp/vault/sdk/helper/errutil"
	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-databricks/internal/client"
)

// Version is the version of the plugin as Vault shows it, a semantic version with a leading "v". It is set at build time
// with -ldflags "-X vault-plugin-secrets-databricks.Version=v…".
var Version = "v0.1.0-dev"

// pluginName names the plugin towards Databricks, in the User-Agent of every request.
const pluginName = "vault-plugin-secrets-databricks"

// unnamedMount is the id of a mount whose host tells none.
const unnamedMount = "unnamed"

// backend is one mount. It is safe for concurrent use.
type backend struct {
	*framework.Backend

	// clock is the time. Tests move it.
	clock func() time.Time

	// mountID marks what this mount makes at Databricks, so that it can be told from what others made.
	mountID string

	// counters outlive the client, so that status keeps counting when the connection is replaced.
	counters client.Counters

	// connections holds at most one connection, under configStorageKey.
	connections cache[*connection]
	roles       cache[*roleEntry]
	statics     cache[*staticEntry]

	// configWrite and roleWrite make read-modify-write on storage atomic. They are never held over a remote call.
	configWrite sync.Mutex
	roleWrite   sync.Mutex

	// underway has the nonces of the undertakings of this process, which no rollback may undo; complaints has what was
	// complained of already, and tried when a rollback last tried to undo one.
	underway, complaints, tried sync.Map

	// grantTurns orders changes of the same permission, secretTurns writes of the same secret; stepTurns bounds the secrets
	// that a service principal has for the sake of access tokens.
	grantTurns, secretTurns, stepTurns turns

	// rotationTurns lets one request or tick at a time work on a credential that is rotated, by the key of its storage entry;
	// agenda says when the next of them is due.
	rotationTurns turns
	agenda        agenda

	// lifetimes outlive the client, too: they tell secrets apart whichever connection made them.
	lifetimes lifetimes

	// grantsSwept is false when there may be records of permissions to be deleted.
	grantsSwept atomic.Bool

	tidy tidying
}

// Factory makes the backend of one mount. It does no I/O and writes nothing: Vault refuses writes while it sets up mounts.
func Factory(ctx context.Context, conf *logical.BackendConfig) (logical.Backend, error) {
	if conf == nil {
		return nil, errors.New("the backend was given no configuration")
	}
	b := newBackend(conf.BackendUUID)
	if err := b.Setup(ctx, conf); err != nil {
		return nil, err
	}
	return b, nil
}

func newBackend(mountID string) *backend {
	b := &backend{mountID: mountID, clock: time.Now}
	if b.mountID == "" {
		b.mountID = unnamedMount
	}
	b.Backend = &framework.Backend{
		Help:           strings.TrimSpace(backendHelp),
		BackendType:    logical.TypeLogical,
		RunningVersion: Version,
		PathsSpecial: &logical.Paths{
			LocalStorage:    []string{framework.WALPrefix},
			SealWrapStorage: []string{configStoragePrefix, staticStoragePrefix},
		},
		Paths: framework.PathAppend(
			b.pathConfig(),
			b.pathRotateRoot(),
			b.pathRoles(),
			b.pathCreds(),
			b.pathStatic(),
			b.pathTokens(),
			b.pathScopes(),
			b.pathSecrets(),
			b.pathACLs(),
			b.pathStatus(),
			b.pathTidy(),
		),
		Secrets:           []*framework.Secret{b.credentialSecret(), b.secretSecret(), b.grantSecret()},
		Invalidate:        b.invalidate,
		Clean:             b.clean,
		PeriodicFunc:      b.tick,
		RotateCredential:  b.rotateManaged,
		WALRollback:       b.rollback,
		WALRollbackMinAge: walMinAge,
	}
	return b
}

// HandleRequest adds to the framework's: a panic ends one request rather than every mount of the process, and an error
// leaves as the status that the user should see.
func (b *backend) HandleRequest(ctx context.Context, req *logical.Request) (resp *logical.Response, err error) {
	defer b.recoverPanic("request", &resp, &err)
	if req.Operation == logical.RollbackOperation {
		ctx = withPass(ctx)
		if b.System().Tainted() {
			// The mount is being disabled, and its write-ahead log goes with it: this is the last chance to undo.
			last := *req
			last.Data = map[string]any{"immediate": true}
			req = &last
		}
	}
	if err := checkSecretTypes(req); err != nil {
		return answer(nil, err)
	}
	resp, err = b.Backend.HandleRequest(ctx, req)
	return answer(resp, err)
}

// HandleExistenceCheck recovers from panics as HandleRequest does.
func (b *backend) HandleExistenceCheck(ctx context.Context, req *logical.Request) (found, exists bool, err error) {
	defer b.recoverPanic("existence check", nil, &err)
	if err := checkSecretTypes(req); err != nil {
		return false, false, errutil.UserError{Err: err.Error()}
	}
	return b.Backend.HandleExistenceCheck(ctx, req)
}

func (b *backend) recoverPanic(where string, resp **logical.Response, err *error) {
	v := recover()
	if v == nil {
		return
	}
	// Only what the runtime itself says is logged: another panic's value might carry a secret.
	cause := "panic"
	if re, ok := v.(runtime.Error); ok {
		cause = re.Error()
	}
	b.Logger().Error("recovered from a panic; please report it with this stack", "in", where, "cause", cause, "stack", string(debug.Stack()))
	if resp != nil {
		*resp = nil
	}
	*err = logical.CodedError(500, "the Databricks secrets engine failed on this request; the stack is in Vault's log, please report it")
}

// secretFields are the fields that carry secrets: texts, and maps of texts.
var (
	secretFields    = []string{keyToken, keyClientSecret, keyAzureClientSecret, keyStringValue, keyBytesValue, keyPasswordPolicy}
	secretMapFields = []string{keySecrets, keyBytes}
)

// checkSecretTypes refuses secrets of the wrong type before the framework does, whose message would show them.
func checkSecretTypes(req *logical.Request) error {
	for _, field := range secretFields {
		switch req.Data[field].(type) {
		case map[string]any, []any:
			return badField(field, "is not a text; send a string")
		}
	}
	for _, field := range secretMapFields {
		switch req.Data[field].(type) {
		case nil, map[string]any:
		default:
			return badField(field, "is not a map; send an object of keys and values")
		}
	}
	return nil
}

// invalidate drops what is remembered of a storage entry that was written on another node.
func (b *backend) invalidate(_ context.Context, key string) {
	switch {
	case key == configStorageKey:
		b.dropConnection()
		b.agenda.touch()
	case strings.HasPrefix(key, roleStoragePrefix):
		b.roles.drop(key)
	case strings.HasPrefix(key, staticStoragePrefix):
		b.statics.drop(key)
		b.agenda.touch()
	case key == tidyStorageKey:
		b.forgetTidy()
	}
}

func (b *backend) clean(context.Context) {
	b.stopTidy()
	b.dropConnection()
}

// now is the time of whatever is written down. Time-outs go by the real one.
func (b *backend) now() time.Time { return b.clock() }

// mayWrite tells whether this node may write the mount's local storage, as a rollback must.
func (b *backend) mayWrite() bool {
	state := b.System().ReplicationState()
	return !state.HasState(consts.ReplicationPerformanceStandby) && !state.HasState(consts.ReplicationDRSecondary)
}

// event tells Vault's event bus of a change; pairs are metadata keys and values, never secrets. A host without an event
// bus is no error, and an event that can't be sent must not undo what has happened.
func (b *backend) event(ctx context.Context, kind, path string, pairs ...string) {
	pairs = append(pairs, logical.EventMetadataPath, path, logical.EventMetadataModified, "true")
	err := logical.SendEvent(ctx, b, "databricks/"+kind, pairs...)
	if err != nil && !errors.Is(err, framework.ErrNoEvents) {
		b.Logger().Debug("an event was not sent", "event", kind, "error", err)
	}
}

const backendHelp = `
The Databricks secrets engine mints short-lived Databricks credentials as Vault
leases and revokes them when the lease ends. One mount is one workspace.

  vault write databricks/config host=https://… token=…
  vault write databricks/roles/etl credential_type=pat ttl=15m max_ttl=1h
  vault read databricks/creds/etl
  vault write databricks/secrets/etl/api-key string_value=…

Times are RFC 3339 in UTC, durations in answers are whole seconds.
`
