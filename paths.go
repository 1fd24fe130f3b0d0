// SPDX-License-Identifier: MPL-2.0

package databricks

import (
	"context"
	"slices"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"
)

// allPaths and leaseTypes are shared by all mounts of the process, since they are most of what a mount would take in memory. So they hold
// nothing of a mount, and must not be modified. The framework anchors the pattern of a path when a mount gets its first request, unless
// it is anchored already, which all of these are.
var (
	allPaths   = newPaths()
	leaseTypes = []*framework.Secret{credentialLeaseType(), leasedSecretType(), aclLeaseType()}
)

// newPaths returns the paths, with anchored patterns.
func newPaths() []*framework.Path {
	paths := framework.PathAppend(
		pathConfig(),
		pathRotateRoot(),
		pathRoles(),
		pathCreds(),
		pathStatic(),
		pathTokens(),
		pathScopes(),
		pathSecrets(),
		pathUCSecrets(),
		pathACLs(),
		pathStatus(),
		pathTidy(),
	)
	for _, path := range paths {
		path.Pattern = "^" + path.Pattern + "$"
	}
	return slices.Clip(paths)
}

// handler serves a request of the mount b. Methods of backend are handlers as method expressions, such as (*backend).mint.
type handler func(b *backend, ctx context.Context, req *logical.Request, data *framework.FieldData) (*logical.Response, error)

// on returns the callback of a shared path or lease type: it calls serve with the mount that the request is for.
func on(serve handler) framework.OperationFunc {
	return func(ctx context.Context, req *logical.Request, data *framework.FieldData) (*logical.Response, error) {
		return serve(mountOf(ctx), ctx, req, data)
	}
}

type mountKey struct{}

// withMount returns the context of a request for the mount b.
func withMount(ctx context.Context, b *backend) context.Context {
	return context.WithValue(ctx, mountKey{}, b)
}

// mountOf returns the mount that a request is for.
func mountOf(ctx context.Context) *backend { return ctx.Value(mountKey{}).(*backend) }
