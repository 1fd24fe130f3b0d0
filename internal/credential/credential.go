// SPDX-License-Identifier: MPL-2.0

// Package credential has the types of Databricks credential that the engine mints: how each is created, identified and revoked.
//
// It takes and returns values. It depends on the Databricks client and on the field schemas of Vault's SDK, but not on paths,
// roles, leases, storage or the write-ahead log. A new type is a file here and a line in Types. Types keep no state, so all
// functions are safe for concurrent use.
package credential

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/framework"

	"vault-plugin-secrets-databricks/internal/client"
	"vault-plugin-secrets-databricks/internal/marker"
)

// Type is one kind of Databricks credential.
type Type interface {
	// Traits returns what the rest of the engine has to know about the type. It is shared and must not be modified.
	Traits() *Traits

	// Fits returns a *FieldError if the connection can't create such credentials.
	Fits(conn Conn, spec Spec) error

	// Mint creates one credential, whose create request carries the request's nonce. After an error for which NotApplied is
	// true, nothing is left at Databricks; after any other, there may be something with the nonce.
	Mint(ctx context.Context, conn Conn, r Request) (*Credential, error)

	// Undo removes every object with the nonce except the one to keep. It returns the ids of what it removed, also with an
	// error, and ErrAmbiguous if it can't identify the object. It can be repeated.
	Undo(ctx context.Context, conn Conn, access Access, lists Lists, lost Lost) (removed []string, err error)

	// Revoke ends the credential at Databricks. It succeeds if the credential is gone already.
	Revoke(ctx context.Context, conn Conn, access Access, ref Ref) error

	// Warnings returns what the author of a role should know about its credentials.
	Warnings(known Known, spec Spec) []string
}

// Types has every credential type, in the order in which help lists them. All differences between types are defined by the types, the
// values that the API allows and the fields of its answers included.
var Types = []Type{
	patCredential{described{&patTraits}},
	oboCredential{described{&oboTraits}},
	oauthSecretCredential{described{&oauthSecretTraits}},
	oauthTokenCredential{described{&oauthTokenTraits}},
	servicePrincipalCredential{described{&servicePrincipalTraits}},
	databaseCredential{described{&databaseTraits}},
}

// Lookup returns the type with the name, and nil where there is none.
func Lookup(name string) Type {
	i := slices.IndexFunc(Types, func(t Type) bool { return t.Traits().Name == name })
	if i < 0 {
		return nil
	}
	return Types[i]
}

// Names returns the names of the types for which where is true, or of all types if where is nil.
func Names(where func(*Traits) bool) []string {
	var names []string
	for _, kind := range Types {
		if t := kind.Traits(); where == nil || where(t) {
			names = append(names, t.Name)
		}
	}
	return names
}

// Static reports whether a static role can have the type.
func Static(t *Traits) bool { return t.Static }

// Conn is what credential types need of a connection to Databricks. It must be safe for concurrent use.
type Conn interface {
	Client() *client.Client
	Host() string     // origin of the workspace or the account console
	AuthType() string // one of client.Auth…

	// GroupIDs returns the ids of the groups with the display names. It may cache them until ForgetGroups.
	GroupIDs(ctx context.Context, names []string) ([]string, error)
	ForgetGroups()

	// Account reports whether the connection is to an account rather than to a workspace.
	Account() bool
	// UserName returns the name of the engine's identity: the user name of a user, the application id of a service principal.
	UserName(ctx context.Context) (string, error)
	// Warn logs what an operator should know of something that succeeded.
	Warn(message string, args ...any)
}

// Access is what the connection may do with something that was made over an earlier one.
type Access int

const (
	// AccessOwn: it belongs to the engine's identity, in the connected workspace.
	AccessOwn Access = iota
	// AccessAdmin: it belongs to another identity of the connected workspace, so it takes a workspace admin.
	AccessAdmin
	// AccessNone: it is in another workspace.
	AccessNone
)

// Lists has what exists at Databricks. It may return the same list to many Undo calls.
type Lists interface {
	// Tokens returns the personal access tokens that the connection can see with the access.
	Tokens(ctx context.Context, conn Conn, access Access) ([]client.TokenInfo, error)

	// OAuthSecrets returns the OAuth secrets of a service principal, by its numeric id.
	OAuthSecrets(ctx context.Context, conn Conn, principalID string) ([]client.OAuthSecret, error)
}

// Need says whether a role must, may or can't set a field.
type Need int

const (
	Never Need = iota
	Optional
	Required
)

// Traits describe a type: which fields its roles can have, and how its credentials behave.
type Traits struct {
	Name    string // the credential_type of roles
	Summary string // what it is, for help

	Principal   Need // service_principal_id and application_id
	Comment     bool // it has a comment
	Groups      bool // and entitlements
	DisplayName bool
	Assumes     bool // it can have a group's rights instead of its identity's
	Workspace   bool // can't be minted on an account mount
	Database    bool // it is a login to a database: it has no scopes, ttl is its own life, and the host of its answer is the database's
	Static      bool // a static role can have it

	EndsByItself bool   // can neither be revoked nor renewed
	Plural       string // what several are called, in what is said of that
	Lasting      bool   // has no expiry at Databricks

	// Textless is set if it can't carry text, so that one for a named service principal is identified by its lifetime.
	Textless bool

	// Lifetime is that of what Mint creates, if it does not depend on the terms of the lease; else 0.
	Lifetime time.Duration

	// Slots is how many mints for one service principal may be in flight at once, and Limit how many such credentials a service
	// principal can have; 0 for any number.
	Slots, Limit int

	LeaseWarning string // what the author of a role should know about its leases; empty for nothing

	answer map[string]*framework.FieldSchema // the response fields that it has besides those of all types
}

// described implements Traits. Types refers to the traits of each type, so that Go initializes them first.
type described struct{ is *Traits }

// Traits implements Type.
func (d described) Traits() *Traits { return d.is }

// Spec has a role's settings for its credentials.
type Spec struct {
	ServicePrincipalID, ApplicationID string   // both or none
	Scopes                            []string // API scopes; empty leaves them to Databricks
	Groups, Entitlements              []string
	Assumed                           client.Group // whose rights they have instead of their identity's; the zero value for these
	Database                          client.Database
	DatabaseHost                      string // "" where it isn't known

	// Stored is set if a storage entry holds the credentials instead of leases: that of a static role, or the config. Fewer types
	// can do that.
	Stored bool
}

// Named reports whether the credentials are those of a named service principal.
func (s Spec) Named() bool { return s.ServicePrincipalID != "" || s.ApplicationID != "" }

// Request is what to mint.
type Request struct {
	Spec
	Mark     marker.Mark
	Text     string        // the comment or display name before the mark
	Lifetime time.Duration // at Databricks, whole seconds
	Life     time.Duration // of a login to a database, whose Lifetime is that of the step before; whole seconds
}

// Credential is a new credential.
type Credential struct {
	ID                 string         // identifies it for Revoke
	ServicePrincipalID string         // its owner, if Revoke needs that
	Lifetime           time.Duration  // as granted by Databricks; 0 or less means that it never ends
	Expires            time.Time      // by Databricks' clock; zero if that isn't reported
	Duplicate          bool           // another object with the nonce may exist, as after a repeated create
	Keep               string         // the id that Undo must keep then; ID when empty
	Data               map[string]any // the response fields of the type, including the secret
	Secret             string         // which field of Data is the secret
	Unfit              error          // why it must be revoked instead of being used, nil for no reason
	Warning            string         // what whoever gets it should know, empty for nothing
}

// SecretPart returns the field of Data that is the secret.
func (c *Credential) SecretPart() client.Secret { return client.Secret(c.Data[c.Secret].(string)) }

// Ref identifies a credential for Revoke.
type Ref struct {
	ID                 string
	ServicePrincipalID string // owner of an OAuth secret; empty for other types
}

// Lost is a credential whose creation may not have been completed.
type Lost struct {
	Nonce  string
	Keep   string          // id of the object with the nonce that a lease or a storage entry holds; empty for none
	Spared map[string]bool // ids that must not be touched, since storage entries hold them

	// A credential that can't carry a nonce is identified by its service principal, its lifetime (0 if others have the same, so
	// that it can't be identified) and the time of its creation.
	ServicePrincipalID string
	Lifetime           time.Duration
	Earliest, Latest   time.Time // by Databricks' clock
	Possibly           time.Time // one that was created after Latest and until then may be it, but is not for certain

	Expires time.Time // when it has expired
}

// Field returns the schema of the field that names one of the types.
func Field(names []string) *framework.FieldSchema {
	field := &framework.FieldSchema{Type: framework.TypeString, Required: true}
	var lines []string
	for _, name := range names {
		field.AllowedValues = append(field.AllowedValues, name)
		lines = append(lines, fmt.Sprintf("%q, %s", name, Lookup(name).Traits().Summary))
	}
	field.Description = "The type of credential: " + strings.Join(lines, "; ") + "."
	return field
}

// AnswerFields returns the schemas of Credential.Data for the types. The caller may modify them.
func AnswerFields(names []string) map[string]*framework.FieldSchema {
	fields, of := make(map[string]*framework.FieldSchema), make(map[string][]string)
	for _, name := range names {
		for field, schema := range Lookup(name).Traits().answer {
			shown := *schema
			fields[field], of[field] = &shown, append(of[field], name)
		}
	}
	for field, types := range of {
		if len(types) < len(names) {
			fields[field].Required = false
			fields[field].Description += " Of " + strings.Join(types, " and ") + "."
		}
	}
	return fields
}

// fieldCredentialType is the field of a role that names the type.
const fieldCredentialType = "credential_type"

// The fields of Credential.Data. fieldScopes is also that of a role.
const (
	fieldTokenValue         = "token_value"
	fieldTokenID            = "token_id"
	fieldComment            = "comment"
	fieldCreationTime       = "creation_time"
	fieldExpiryTime         = "expiry_time"
	fieldScopes             = "scopes"
	fieldClientID           = "client_id"
	fieldClientSecret       = "client_secret"
	fieldSecretID           = "secret_id"
	fieldAccessToken        = "access_token"
	fieldTokenType          = "token_type"
	fieldApplicationID      = "application_id"
	fieldServicePrincipalID = "service_principal_id"
	fieldDisplayName        = "display_name"
	fieldUsername           = "username"
	fieldPassword           = "password"
	fieldHost               = "host"
	fieldPort               = "port"
)

// scopesSchema is the schema of the scopes, which every type shows.
var scopesSchema = &framework.FieldSchema{Type: framework.TypeStringSlice, Required: true, Description: "API scopes of the credential, as Databricks answers them; where it answers none, those that were asked for."}

// textField is the schema of a string in an answer, and secretField that of one that is a secret.
func textField(description string) *framework.FieldSchema {
	return &framework.FieldSchema{Type: framework.TypeString, Description: description}
}

func secretField(description string) *framework.FieldSchema {
	return &framework.FieldSchema{Type: framework.TypeString, Description: description, DisplayAttrs: &framework.DisplayAttributes{Sensitive: true}}
}

// Life returns the lifetime of a credential, by Databricks' clock if created is known; 0 for one that never ends.
func Life(created, expires time.Time) time.Duration {
	switch {
	case expires.IsZero():
		return 0
	case created.IsZero():
		return time.Until(expires)
	default:
		return expires.Sub(created)
	}
}

// FieldError is an invalid field of a role. Reason says what to use instead.
type FieldError struct{ Field, Reason string }

func (e *FieldError) Error() string { return e.Field + ": " + e.Reason }

// Unclean returns the failure of a change whose earlier attempt may have had an effect, whatever the last one's error says.
func Unclean(err error) error { return &partialError{err, false} }

// partialError is the failure of a change that takes several steps. clean says whether everything that the steps created is
// gone; the error of the failed step alone can't say that.
type partialError struct {
	error
	clean bool
}

func (e *partialError) Unwrap() error { return e.error }

// NotApplied reports whether a change that failed is known to have left nothing behind at Databricks.
func NotApplied(err error) bool {
	var partial *partialError
	if errors.As(err, &partial) {
		return partial.clean
	}
	var remote *client.Error
	return errors.As(err, &remote) && remote.Unprocessed
}

// explainedError is a refusal of Databricks with its reason and what to do about it.
type explainedError struct{ error }

func (e *explainedError) Unwrap() error { return e.error }

// explain is fmt.Errorf for an explainedError.
func explain(format string, args ...any) error { return &explainedError{fmt.Errorf(format, args...)} }

// Explained reports whether the error says already what to do about a refusal of Databricks.
func Explained(err error) bool {
	_, explained := errors.AsType[*explainedError](err)
	return explained
}

// ExplainPrincipal adds advice to an error about a service principal. A nil error stays nil.
func ExplainPrincipal(err error, principalID string) error {
	switch {
	case client.IsGone(err):
		return explain("there is no service principal %s where the mount is connected; add it there, or correct the role: %w", principalID, err)
	case client.IsKind(err, client.PermissionDenied):
		return explain("the engine's identity must be a workspace admin, or the manager of service principal %s (on an account mount: an account admin): %w", principalID, err)
	default:
		return err
	}
}
