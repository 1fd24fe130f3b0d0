// SPDX-License-Identifier: MPL-2.0

package credential

import (
	"context"
	"fmt"
	"strings"

	"github.com/hashicorp/vault/sdk/framework"

	"vault-plugin-secrets-databricks/internal/client"
)

// Database is the name of the type of logins to databases.
const Database = "database_credential"

// databasePort is that of all databases of Lakebase (Databricks guide "Connect to your database").
const databasePort = 5432

// databaseCredential is a login to a database of Lakebase, of the engine's own identity or of a named service principal, for which it is made
// through an OAuth secret that lives for seconds. Databricks can't revoke one: it expires, and connections that it has opened outlive it.
type databaseCredential struct{ described }

var _ Type = databaseCredential{}

var databaseTraits = Traits{
	Name:      Database,
	Summary:   "a login to a Lakebase database of the engine's identity or of a service principal",
	Principal: Optional, Workspace: true, Database: true, EndsByItself: true, Plural: "database credentials", Textless: true, Lifetime: stepSecretLife, Slots: stepSecretSlots,
	answer: map[string]*framework.FieldSchema{
		fieldUsername: textField("User name of the login: that of a user, the application id of a service principal. The database must have a role of that name."),
		fieldPassword: secretField("Password of the login. TLS is required. It is checked at the login only, so open connections outlive it."),
		fieldPort:     {Type: framework.TypeInt, Description: "Port of the database, where its host is known."},
	},
}

func (databaseCredential) Fits(Conn, Spec) error { return nil }

func (databaseCredential) Mint(ctx context.Context, conn Conn, r Request) (*Credential, error) {
	wanted := client.NewDatabaseLogin{Database: r.Database, Lifetime: r.Life, RequestID: r.Mark.Nonce}
	if !r.Named() {
		name, err := conn.UserName(ctx)
		if err != nil {
			return nil, err
		}
		login, err := conn.Client().CreateDatabaseLogin(ctx, wanted)
		if err != nil {
			return nil, explainDatabase(err, "the engine's identity, "+name+",", r.Spec)
		}
		return mintedLogin(login, name, r.Spec, false), nil
	}
	var login *client.DatabaseLogin
	left, err := throughSecret(ctx, conn, r, client.TokenRights{}, func(token *client.AccessToken) (err error) {
		wanted.Bearer = token.Value
		login, err = conn.Client().CreateDatabaseLogin(ctx, wanted)
		return explainDatabase(err, "service principal "+r.ApplicationID, r.Spec)
	})
	if err != nil {
		return nil, err
	}
	return mintedLogin(login, r.ApplicationID, r.Spec, left), nil
}

// mintedLogin returns a new login as a Credential. Its ID matches nothing at Databricks, as that of an access token.
func mintedLogin(login *client.DatabaseLogin, username string, spec Spec, duplicate bool) *Credential {
	m := &Credential{
		ID: "none", Lifetime: login.Lifetime, Expires: login.Expires, Duplicate: duplicate, Secret: fieldPassword,
		Data: map[string]any{fieldUsername: username, fieldPassword: login.Password.Reveal()},
	}
	if spec.DatabaseHost != "" {
		m.Data[fieldHost], m.Data[fieldPort] = spec.DatabaseHost, databasePort
	}
	return m
}

// explainDatabase adds to a refusal of a login whose it is, to which database, and what to do. A nil error stays nil.
func explainDatabase(err error, who string, spec Spec) error {
	if err == nil {
		return nil
	}
	database, field := "database endpoint "+spec.Database.Endpoint, "database_endpoint"
	if spec.Database.Endpoint == "" {
		database, field = "database instances "+strings.Join(spec.Database.Instances, ", "), "database_instances"
	}
	switch {
	case client.IsGone(err):
		return explain("%s is unknown there; correct %s of the role: %w", database, field, err)
	case client.IsKind(err, client.PermissionDenied):
		return explain("%s may not log in to %s; let an admin permit it there, and check claims of the role, if it has any: %w", who, database, err)
	default:
		return fmt.Errorf("make a login of %s to %s: %w", strings.TrimSuffix(who, ","), database, err)
	}
}

func (databaseCredential) Undo(ctx context.Context, conn Conn, access Access, lists Lists, lost Lost) ([]string, error) {
	return oauthTokenCredential{}.Undo(ctx, conn, access, lists, lost)
}

// Revoke does nothing: Databricks can't revoke a login.
func (databaseCredential) Revoke(context.Context, Conn, Access, Ref) error { return nil }

func (databaseCredential) Warnings(known Known, spec Spec) []string {
	all := []string{"Databricks can't revoke database credentials: one lives until its expiry_time, even if its lease is revoked, and connections that it has opened outlive even that. The lease can't be renewed either."}
	if known.HostUnknown != "" {
		all = append(all, fmt.Sprintf("The host of the database isn't known (%s), so credentials of this role have no host and port; send it as database_host.", known.HostUnknown))
	}
	if len(known.Hidden) > 0 {
		all = append(all, fmt.Sprintf("Databricks does not show the engine's identity a database %s. Mints of this role will fail unless service principal %s may see it.", strings.Join(known.Hidden, ", "), spec.ApplicationID))
	}
	who := ""
	switch {
	case spec.Named():
		all = append(all, secretWarnings(known, spec)...)
		if len(principalWarnings(known, spec)) > 0 {
			who = "service principal " + spec.ApplicationID + ", which"
		}
	case known.Unknown != "":
		all = append(all, fmt.Sprintf("It isn't known whether the engine's identity is an admin (%s). If it is, logins of this role are those of an admin.", known.Unknown))
	case known.Admin():
		who = known.Identity.UserName + ", who"
	}
	if who != "" {
		all = append(all, fmt.Sprintf("Logins of this role are those of %s is %s. Check which rights the Postgres role of that name has in the database, or name a service principal that has only those that the role's users need.", who, known.adminName()))
	}
	return all
}
