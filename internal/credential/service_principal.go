// SPDX-License-Identifier: MPL-2.0

package credential

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"vault-plugin-secrets-databricks/internal/client"
	"vault-plugin-secrets-databricks/internal/marker"

	"github.com/hashicorp/vault/sdk/framework"
)

// ServicePrincipal is the name of the type of service principals that live as long as their lease.
const ServicePrincipal = "service_principal"

// servicePrincipalCredential is a service principal for one lease only, in the role's groups, with an OAuth secret. Its nonce
// is in its display name. It has no expiry at Databricks, but its secret does.
type servicePrincipalCredential struct{ described }

var _ Type = servicePrincipalCredential{}

// deleteBudget is how long it may take to delete a service principal whose secret could not be created.
const deleteBudget = 25 * time.Second

var servicePrincipalTraits = Traits{
	Name:    ServicePrincipal,
	Summary: "a service principal of the lease's own with an OAuth secret",
	Groups:  true, DisplayName: true, Lasting: true,
	answer: servicePrincipalAnswer(),
}

func servicePrincipalAnswer() map[string]*framework.FieldSchema {
	fields := maps.Clone(oauthSecretAnswer)
	fields[fieldApplicationID] = textField("Application id of the service principal.")
	fields[fieldServicePrincipalID] = textField("Numeric id of the service principal.")
	fields[fieldDisplayName] = textField("Display name of the service principal.")
	return fields
}

func (servicePrincipalCredential) Fits(Conn, Spec) error { return nil }

func (servicePrincipalCredential) Mint(ctx context.Context, conn Conn, r Request) (*Credential, error) {
	groups, err := conn.GroupIDs(ctx, r.Groups)
	if err != nil {
		return nil, &partialError{err, true}
	}
	principal, retried, err := conn.Client().CreateServicePrincipal(ctx, client.NewServicePrincipal{
		DisplayName: r.Mark.Comment(r.Text), GroupIDs: groups, Entitlements: r.Entitlements,
	})
	if err != nil {
		conn.ForgetGroups()
		return nil, explainNewPrincipal(err)
	}
	secret, err := conn.Client().CreateOAuthSecret(ctx, principal.ID, r.Lifetime, r.Scopes)
	if err != nil {
		last, cancel := context.WithTimeout(context.WithoutCancel(ctx), deleteBudget)
		defer cancel()
		// A secret that may have been created must be deleted, too.
		remove := deletePrincipal
		if !NotApplied(err) {
			remove = DeletePrincipal
		}
		undoErr := remove(last, conn, principal.ID)
		err = fmt.Errorf("the service principal was made, but its secret was not: %w", ExplainPrincipal(err, principal.ID))
		return nil, &partialError{errors.Join(err, undoErr), undoErr == nil && !retried}
	}
	m := mintedSecret(secret, principal.ID, principal.ApplicationID, r.Scopes)
	// A duplicate of the secret is deleted with the service principal. The rollback looks for a duplicate of the service
	// principal.
	m.Duplicate, m.Keep = retried, principal.ID
	m.Data[fieldApplicationID] = principal.ApplicationID
	m.Data[fieldServicePrincipalID] = principal.ID
	m.Data[fieldDisplayName] = principal.DisplayName
	return m, nil
}

func (servicePrincipalCredential) Undo(ctx context.Context, conn Conn, _ Access, _ Lists, lost Lost) (removed []string, err error) {
	principals, err := conn.Client().ServicePrincipalsNamed(ctx, lost.Nonce)
	if err != nil {
		return nil, err
	}
	for _, principal := range principals {
		if m, ok := marker.Parse(principal.DisplayName); !ok || m.Nonce != lost.Nonce || principal.ID == lost.Keep {
			continue
		}
		if err := DeletePrincipal(ctx, conn, principal.ID); err != nil {
			return removed, err
		}
		removed = append(removed, principal.ID)
	}
	return removed, nil
}

// Revoke deletes the secret first: without it the consumer can't authenticate, even if the service principal can't be deleted.
func (servicePrincipalCredential) Revoke(ctx context.Context, conn Conn, _ Access, ref Ref) error {
	if err := deleteOAuthSecret(ctx, conn, ref.ServicePrincipalID, ref.ID); err != nil {
		return err
	}
	return deletePrincipal(ctx, conn, ref.ServicePrincipalID)
}

// DeletePrincipal deletes a service principal, and first its secrets, whose ids aren't known: deleted in a workspace, it may
// stay in the account, with its secrets. If the engine may not list them, it can't have created any. A service principal that
// no longer exists is not an error.
func DeletePrincipal(ctx context.Context, conn Conn, id string) error {
	secrets, err := conn.Client().ListOAuthSecrets(ctx, id)
	if err != nil && !client.IsGone(err) && !client.IsKind(err, client.PermissionDenied) {
		return err
	}
	for _, secret := range secrets {
		if err := deleteOAuthSecret(ctx, conn, id, secret.ID); err != nil {
			return err
		}
	}
	return deletePrincipal(ctx, conn, id)
}

// deletePrincipal succeeds if the service principal no longer exists.
func deletePrincipal(ctx context.Context, conn Conn, id string) error {
	if err := conn.Client().DeleteServicePrincipal(ctx, id); err != nil && !client.IsGone(err) {
		return err
	}
	return nil
}

func (servicePrincipalCredential) Warnings(known Known, spec Spec) []string {
	return slices.Concat(onlyAdminsWarnings(known, "service principals"), groupWarnings(spec), scopeWarnings(spec))
}

// explainNewPrincipal adds advice to an error of creating a service principal.
func explainNewPrincipal(err error) error {
	switch {
	case client.IsKind(err, client.QuotaExceeded):
		return explain("an account can have 10,000 users and service principals together; revoke leases that are no longer needed, shorten max_ttl, or use %s of one service principal: %w", OAuthToken, err)
	case client.IsKind(err, client.PermissionDenied):
		return explain("only a workspace admin (on an account mount: an account admin) can make service principals, and the engine's identity isn't one: %w", err)
	default:
		return err
	}
}
