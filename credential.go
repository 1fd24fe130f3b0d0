// SPDX-License-Identifier: MPL-2.0

package databricks

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/framework"

	"vault-plugin-secrets-databricks/internal/client"
	"vault-plugin-secrets-databricks/internal/marker"
)

// credentialType is one kind of Databricks credential: how it is created, found again and revoked. It takes values, and knows
// of neither roles nor leases nor the write-ahead log.
type credentialType interface {
	// traits are what the rest of the engine has to know of the type. They are shared and must not be changed.
	traits() *traits

	// fits refuses what can't work over the connection.
	fits(conn *connection, spec credentialSpec) error

	// mint creates one credential with one upstream create that carries the request's nonce. An error for which
	// hadNoEffect is true says that nothing was left behind; after any other, there may be something with the nonce.
	mint(ctx context.Context, conn *connection, r mintRequest) (*minted, error)

	// undo removes every bearer of the nonce but the one to keep, and returns the ids of what it removed.
	undo(ctx context.Context, conn *connection, how reach, p *pass, lost lostCredential) (removed []string, err error)

	// revoke ends the credential at Databricks. That it is gone already is success.
	revoke(ctx context.Context, conn *connection, how reach, ref credentialRef) error

	// warnings tells the author of a role what there is to know about its credentials. The identity may be nil, when it isn't known.
	warnings(identity *client.Identity, spec credentialSpec) []string
}

// credentialTable has every credential type, in the order in which help lists them. Whatever differs between types is in here, the
// values that the API allows and the fields of its answers included: a new type is a file of its own and a line in this table.
var credentialTable = []credentialType{
	patCredential{described{&patTraits}},
	oboCredential{described{&oboTraits}},
	oauthSecretCredential{described{&oauthSecretTraits}},
	oauthTokenCredential{described{&oauthTokenTraits}},
	servicePrincipalCredential{described{&servicePrincipalTraits}},
}

// credentialTypes has them under the names that roles use.
var credentialTypes = func() map[string]credentialType {
	types := make(map[string]credentialType)
	for _, kind := range credentialTable {
		types[kind.traits().name] = kind
	}
	return types
}()

// need is whether a role must, may or can't name something.
type need int

const (
	never need = iota
	optional
	required
)

// traits are what a role of a credential type may have, and what such a credential is like.
type traits struct {
	name    string // under which roles name the type
	summary string // what it is, for help

	principal   need // service_principal_id and application_id
	comment     bool // it bears a comment
	groups      bool // and entitlements
	displayName bool
	workspace   bool // can't be minted on an account mount
	static      bool // a static role can have it

	endsByItself bool // can neither be revoked nor renewed
	lasting      bool // has no end of its own at Databricks

	// textless is set where it bears no text, so that one for a named service principal is told from others by its lifetime.
	textless bool

	// lifetime is how long what mint creates is to live where the terms of the lease have no bearing on that; else 0.
	lifetime time.Duration

	// slots is how many mints for one service principal may be in flight at once, and limit how many of its credentials a service
	// principal can have; 0 for any number.
	slots, limit int

	leaseWarning string // what the author of a role should know of its leases; empty for nothing

	answer map[string]*framework.FieldSchema // what answers show of it besides commonAnswer
	secret string                            // which field of answer is the secret
}

// described gives a type its traits. The table names them, so that they are initialised before it.
type described struct{ is *traits }

func (d described) traits() *traits { return d.is }

// credentialSpec is what a role says of its credentials.
type credentialSpec struct {
	servicePrincipalID, applicationID string   // both or none
	scopes                            []string // API scopes; empty leaves them to Databricks
	groups, entitlements              []string
}

// named tells whether the credentials are those of a named service principal.
func (s credentialSpec) named() bool { return s.servicePrincipalID != "" || s.applicationID != "" }

// mintRequest is what to mint.
type mintRequest struct {
	credentialSpec
	mark     marker.Mark
	text     string        // what the comment or name says before the mark
	lifetime time.Duration // at Databricks, whole seconds
}

// minted is a new credential.
type minted struct {
	id                 string         // what revoke goes by
	servicePrincipalID string         // whose it is, where revoke needs that
	lifetime           time.Duration  // as granted by Databricks; 0 or less means that it never ends
	expires            time.Time      // by Databricks' clock; zero where that isn't told
	twin               bool           // something with the nonce may exist that no lease needs, as after a repeated create
	keep               string         // what a rollback must keep then, id when empty
	data               map[string]any // the answer to the caller, secret included
	secret             string         // which field of data is the secret
}

// secretPart returns the field of data that is the secret.
func (m *minted) secretPart() client.Secret { return client.Secret(m.data[m.secret].(string)) }

// credentialRef is what it takes to revoke a credential.
type credentialRef struct {
	id                 string
	servicePrincipalID string // whose secret it is; empty for other types
}

// lostCredential is a credential whose creation may not have been completed.
type lostCredential struct {
	nonce  string
	keep   string          // the id of the bearer of the nonce that something holds; empty for none
	spared map[string]bool // ids that must not be touched, since storage entries hold them

	servicePrincipalID string        // whose it is, where it can't bear the nonce
	lifetime           time.Duration // that no other create asked for; 0 where others have it, too
	started, expires   time.Time     // when the create may have begun, and when what it made has ended
}

// credentialTypeNames returns the names of the types for which where is true, of all where it is nil.
func credentialTypeNames(where func(*traits) bool) []string {
	var names []string
	for _, kind := range credentialTable {
		if t := kind.traits(); where == nil || where(t) {
			names = append(names, t.name)
		}
	}
	return names
}

// staticTypeNames returns the names of the types that a static role can have.
func staticTypeNames() []string {
	return credentialTypeNames(func(t *traits) bool { return t.static })
}

// credentialTypeField is the field that names one of the types.
func credentialTypeField(names []string) *framework.FieldSchema {
	field := &framework.FieldSchema{Type: framework.TypeString, Required: true}
	var lines []string
	for _, name := range names {
		field.AllowedValues = append(field.AllowedValues, name)
		lines = append(lines, fmt.Sprintf("%q, %s", name, credentialTypes[name].traits().summary))
	}
	field.Description = "The type of credential: " + strings.Join(lines, "; ") + "."
	return field
}

// answerFields returns the fields of an answer that shows a credential of one of the types.
func answerFields(names []string) map[string]*framework.FieldSchema {
	fields := map[string]*framework.FieldSchema{
		keyHost:       {Type: framework.TypeString, Required: true, Description: "Origin of the workspace."},
		keyExpiryTime: {Type: framework.TypeString, Required: true, Description: "When the credential ends at Databricks, RFC 3339."},
		keyScopes:     {Type: framework.TypeStringSlice, Required: true, Description: "Its API scopes, as Databricks reports them."},
	}
	of := make(map[string][]string)
	for _, name := range names {
		for field, schema := range credentialTypes[name].traits().answer {
			shown := *schema
			fields[field], of[field] = &shown, append(of[field], name)
		}
	}
	for field, names := range of {
		fields[field].Description += " Of " + strings.Join(names, ", ") + "."
	}
	return fields
}

// secretAnswerField is the field of an answer that has a secret.
func secretAnswerField(description string) *framework.FieldSchema {
	return &framework.FieldSchema{Type: framework.TypeString, Description: description, DisplayAttrs: &framework.DisplayAttributes{Sensitive: true}}
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

func scopeWarnings(spec credentialSpec) []string {
	for _, scope := range spec.scopes {
		if scope == "authentication" {
			return []string{`A credential with the scope "authentication" can create further ones with any scope, which outlive the lease.`}
		}
	}
	return nil
}
