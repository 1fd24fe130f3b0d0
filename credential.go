// SPDX-License-Identifier: MPL-2.0

package databricks

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"vault-plugin-secrets-databricks/internal/client"
)

// credentialType is one kind of Databricks credential: how it is minted, undone and revoked. It decides nothing about leases
// or the write-ahead log.
type credentialType interface {
	// needs tells which fields a role of the type may and must have.
	needs() needs

	// fits refuses a role that can't work over the connection.
	fits(conn *connection, role *roleEntry) error

	// mint creates one credential with one upstream create that carries the order's nonce. An error for which
	// hadNoEffect is true says that nothing was left behind; after any other, there may be something with the nonce.
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
	credentialPAT:              patCredential{},
	credentialOBO:              oboCredential{},
	credentialOAuthSecret:      oauthSecretCredential{},
	credentialOAuthToken:       oauthTokenCredential{},
	credentialServicePrincipal: servicePrincipalCredential{},
}

func credentialTypeNames() []string { return slices.Sorted(maps.Keys(credentialTypes)) }

// need is whether a role must, may or can't name something.
type need int

const (
	never need = iota
	optional
	required
)

// needs are what a role of a credential type may have, and what such a credential is like.
type needs struct {
	principal    need // service_principal_id and application_id
	scopes       bool
	comment      bool
	groups       bool // and entitlements
	displayName  bool
	workspace    bool // can't be minted on an account mount
	endsByItself bool // can neither be revoked nor renewed
	lasting      bool // has no end of its own at Databricks
}

// order is what to mint.
type order struct {
	role     *roleEntry
	marker   marker
	text     string        // what the comment or name says before the marker
	lifetime time.Duration // at Databricks, whole seconds
	scopes   []string      // API scopes; empty leaves them to Databricks
}

// minted is a new credential.
type minted struct {
	id                 string         // what revoke goes by
	servicePrincipalID string         // whose it is, where revoke needs that
	lifetime           time.Duration  // as granted by Databricks; 0 or less means that it never ends
	expires            time.Time      // by Databricks' clock, where that is told
	twin               bool           // something with the nonce may exist that no lease needs, as after a repeated create
	keep               string         // what a rollback must keep then, id when empty
	data               map[string]any // the answer to the caller, secret included
	secret             string         // which field of data is the secret
}

// grantedLife is how long a credential lives, by Databricks' clock where that is told; 0 for one that never ends.
func grantedLife(created, expires time.Time) time.Duration {
	switch {
	case expires.IsZero():
		return 0
	case created.IsZero():
		return time.Until(expires)
	default:
		return expires.Sub(created)
	}
}

// adminWarnings tells of what acts as the engine's own identity.
func adminWarnings(identity *client.Identity) []string {
	if identity == nil || !identity.Admin {
		return nil
	}
	return []string{fmt.Sprintf("Credentials of this role have all the rights of %s, who is a workspace admin. Safer are %s, %s, %s of a named service principal, or %s; or connect the mount as an identity with only the rights that the role's users need.",
		identity.UserName, credentialOBO, credentialOAuthSecret, credentialOAuthToken, credentialServicePrincipal)}
}

func scopeWarnings(role *roleEntry) []string {
	for _, scope := range role.Scopes {
		if scope == "authentication" {
			return []string{`A credential with the scope "authentication" can create further ones with any scope, which outlive the lease.`}
		}
	}
	return nil
}
