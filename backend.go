// SPDX-License-Identifier: MPL-2.0

// Package databricks is a secrets engine for HashiCorp Vault. A mount connects to one Databricks workspace or account. It mints
// short-lived Databricks credentials as Vault leases and revokes them when the lease ends, rotates credentials that can't be
// leased, and manages secret scopes, their secrets and their permissions.
//
// Data flows one way: Vault calls a path (path_*.go, which know Vault and no HTTP), a path leases or rotates (lease_*.go,
// rotation*.go), that uses a credential type (internal/credential, which knows both sides' nouns and no paths), and a credential
// type uses internal/client (which knows Databricks and no Vault). What must survive a crash between the two sides is written
// down first, in wal.go; how long things live is decided in lease_ttl.go and nowhere else.
package databricks

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"
)

// Version is the version of the plugin as Vault shows it, a semantic version with a leading "v". It is set at build time
// with -ldflags "-X vault-plugin-secrets-databricks.Version=v…".
var Version = "v0.1.1-dev"

// pluginName names the plugin towards Databricks, in the User-Agent of every request.
const pluginName = "vault-plugin-secrets-databricks"

// Factory returns the backend of one mount. It does no I/O, since Vault refuses writes while it sets up mounts.
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
	b := &backend{mountID: mountID, clock: time.Now, started: time.Now(), instance: newInstance()}
	b.shared.patience = sharedPatience
	b.rankLocks()
	if b.mountID == "" {
		b.mountID = unnamedMount
	}
	b.Backend = &framework.Backend{
		Help:           strings.TrimSpace(backendHelp),
		BackendType:    logical.TypeLogical,
		RunningVersion: Version,
		PathsSpecial: &logical.Paths{
			// The write-ahead log is not replicated: the cluster that writes an entry rolls it back.
			LocalStorage:    []string{framework.WALPrefix},
			SealWrapStorage: []string{configStoragePrefix, staticStoragePrefix},
		},
		Paths:            allPaths,
		Secrets:          leaseTypes,
		Invalidate:       b.invalidate,
		Clean:            b.clean,
		PeriodicFunc:     b.periodic,
		RotateCredential: b.rotateManaged,
	}
	return b
}

// HandleRequest extends the framework's: a panic fails one request instead of crashing every mount of the process, and errors
// are mapped to HTTP statuses (see answer).
func (b *backend) HandleRequest(ctx context.Context, req *logical.Request) (resp *logical.Response, err error) {
	defer b.recoverPanic("request", &resp, &err)
	if err := checkAddress(req); err != nil {
		return answer(nil, err)
	}
	if err := b.checkTypes(req); err != nil {
		return answer(nil, err)
	}
	if err := b.checkPlane(ctx, req); err != nil {
		return answer(nil, err)
	}
	if !strings.HasPrefix(req.Path, mintPrefix) {
		b.hostCache.forgetState()
	}
	resp, err = b.Backend.HandleRequest(withMount(ctx, b), req)
	b.logFailure(req, err)
	if req.Operation == logical.RollbackOperation {
		// The framework's own rollback reads every entry of the write-ahead log each time.
		if failed := b.rollback(ctx, req); failed != nil {
			resp = logical.ErrorResponse(failed.Error())
		}
	}
	if req.Operation == logical.RenewOperation || req.Operation == logical.RevokeOperation {
		return answerLease(resp, err)
	}
	return answer(nothingToSay(req, resp), err)
}

// nothingToSay returns nil for the empty response of a write or delete: Vault answers 204 then, by which its CLI knows to print that the
// request succeeded. For a read nil means that there is nothing.
func nothingToSay(req *logical.Request, resp *logical.Response) *logical.Response {
	switch req.Operation {
	case logical.CreateOperation, logical.UpdateOperation, logical.PatchOperation, logical.DeleteOperation:
		if resp != nil && len(resp.Data) == 0 && len(resp.Warnings) == 0 && resp.Secret == nil && resp.Auth == nil {
			return nil
		}
	}
	return resp
}

// HandleExistenceCheck recovers from panics as HandleRequest does.
func (b *backend) HandleExistenceCheck(ctx context.Context, req *logical.Request) (found, exists bool, err error) {
	defer b.recoverPanic("existence check", nil, &err)
	if checkAddress(req) != nil || b.checkTypes(req) != nil {
		return true, true, nil // the request itself will say it, to those whom a policy allows it
	}
	return b.Backend.HandleExistenceCheck(withMount(ctx, b), req)
}

const backendHelp = `
The Databricks secrets engine mints short-lived Databricks credentials as Vault
leases and revokes them when the lease ends. One mount is one workspace.

  vault write databricks/config host=https://… token=…
  vault write databricks/roles/etl credential_type=pat ttl=15m max_ttl=1h
  vault read databricks/creds/etl
  vault write databricks/secrets/etl/api-key string_value=…
  vault write databricks/uc-secrets/main/app/api-key string_value=…

Times are RFC 3339 in UTC, durations in responses are whole seconds.
`
