// SPDX-License-Identifier: MPL-2.0

package databricks

import (
	"context"
	"maps"
	"slices"
	"time"

	"vault-plugin-secrets-databricks/internal/client"
)

// credentialType is one kind of Databricks credential: how it is minted, undone and revoked. It decides nothing about leases
// or the write-ahead log.
type credentialType interface {
	// mint creates one credential with one upstream create that carries the order's nonce. An error for which
	// hadNoEffect is true says that nothing was created; after any other, there may be something with the nonce.
	mint(ctx context.Context, conn *connection, o order) (*minted, error)

	// undo removes every bearer of the intent's nonce but the one to keep, and answers the ids of what it removed. It is
	// called within a pass.
	undo(ctx context.Context, conn *connection, how reach, in *intent) (removed []string, err error)

	// revoke ends the lease's credential at Databricks. That it is gone already is success.
	revoke(ctx context.Context, conn *connection, how reach, l *lease) error

	// warnings tells whoever writes a role what there is to know about it. The identity may be nil, when it isn't known.
	warnings(identity *client.Identity, role *roleEntry) []string
}

// credentialTypes has every credential type under the name that roles use.
var credentialTypes = map[string]credentialType{
	credentialPAT: patCredential{},
}

func credentialTypeNames() []string { return slices.Sorted(maps.Keys(credentialTypes)) }

// order is what to mint.
type order struct {
	marker   marker
	text     string        // what the comment says before the marker
	lifetime time.Duration // at Databricks, whole seconds
	scopes   []string      // API scopes; empty leaves them to Databricks
}

// minted is a new credential.
type minted struct {
	id       string         // what revoke goes by
	lifetime time.Duration  // as granted by Databricks, by its own clock; 0 or less means that it never ends
	retried  bool           // the create was repeated, so that a twin may exist
	data     map[string]any // the answer to the caller, secret included
	secret   string         // which field of data is the secret
}
