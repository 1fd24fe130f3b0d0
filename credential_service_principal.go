// SPDX-License-Identifier: MPL-2.0

package databricks

import (
	"context"
	"errors"
	"fmt"
	"maps"

	"vault-plugin-secrets-databricks/internal/client"
	"vault-plugin-secrets-databricks/internal/marker"

	"github.com/hashicorp/vault/sdk/framework"
)

const credentialServicePrincipal = "service_principal"

// servicePrincipalCredential is a service principal of the lease's own, in the role's groups, with an OAuth secret. Its nonce
// is in its display name. It has no expiry at Databricks; its secret has.
type servicePrincipalCredential struct{ described }

var _ credentialType = servicePrincipalCredential{}

var servicePrincipalTraits = traits{
	name:    credentialServicePrincipal,
	summary: "a service principal of the lease's own with an OAuth secret",
	groups:  true, displayName: true, lasting: true,
	answer: servicePrincipalAnswer(), secret: keyClientSecret,
}

func servicePrincipalAnswer() map[string]*framework.FieldSchema {
	fields := maps.Clone(oauthSecretAnswer)
	fields[keyApplicationID] = &framework.FieldSchema{Type: framework.TypeString, Description: "Application id of the service principal."}
	fields[keyServicePrincipalID] = &framework.FieldSchema{Type: framework.TypeString, Description: "Numeric id of the service principal."}
	fields[keyDisplayName] = &framework.FieldSchema{Type: framework.TypeString, Description: "Display name of the service principal."}
	return fields
}

func (servicePrincipalCredential) fits(*connection, credentialSpec) error { return nil }

func (servicePrincipalCredential) mint(ctx context.Context, conn *connection, r mintRequest) (*minted, error) {
	groups, err := conn.groupIDs(ctx, r.groups)
	if err != nil {
		return nil, &halfway{err, true}
	}
	principal, retried, err := conn.client.CreateServicePrincipal(ctx, client.NewServicePrincipal{
		DisplayName: r.mark.Comment(r.text), GroupIDs: groups, Entitlements: r.entitlements,
	})
	if err != nil {
		conn.forgetGroups()
		return nil, explainNewPrincipal(err)
	}
	secret, err := conn.client.CreateOAuthSecret(ctx, principal.ID, r.lifetime, r.scopes)
	if err != nil {
		last, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoBudget)
		defer cancel()
		remove := deletePrincipal
		if !hadNoEffect(err) {
			remove = removePrincipal
		}
		undoErr := remove(last, conn, principal.ID)
		err = fmt.Errorf("the service principal was made, but its secret was not: %w", explainPrincipal(err, principal.ID))
		return nil, &halfway{errors.Join(err, undoErr), undoErr == nil && !retried}
	}
	m := mintedSecret(secret, principal.ID, principal.ApplicationID, r.scopes)
	// A twin of the secret goes with the service principal; a twin of the service principal is what the rollback looks for.
	m.twin, m.keep = retried, principal.ID
	m.data[keyApplicationID] = principal.ApplicationID
	m.data[keyServicePrincipalID] = principal.ID
	m.data[keyDisplayName] = principal.DisplayName
	return m, nil
}

func (servicePrincipalCredential) undo(ctx context.Context, conn *connection, _ reach, _ *pass, lost lostCredential) (removed []string, err error) {
	principals, err := conn.client.ServicePrincipalsNamed(ctx, lost.nonce)
	if err != nil {
		return nil, err
	}
	for _, principal := range principals {
		if m, ok := marker.Parse(principal.DisplayName); !ok || m.Nonce != lost.nonce || principal.ID == lost.keep {
			continue
		}
		if err := removePrincipal(ctx, conn, principal.ID); err != nil {
			return removed, err
		}
		removed = append(removed, principal.ID)
	}
	return removed, nil
}

// revoke deletes the secret first: that ends what the consumer can do even where the service principal stays.
func (servicePrincipalCredential) revoke(ctx context.Context, conn *connection, _ reach, ref credentialRef) error {
	if err := deleteOAuthSecret(ctx, conn, ref.servicePrincipalID, ref.id); err != nil {
		return err
	}
	return deletePrincipal(ctx, conn, ref.servicePrincipalID)
}

// removePrincipal deletes a service principal whose secrets aren't known, and those first: a workspace of an account may keep
// the service principal, and them with it. Where they may not be seen, none can have been made.
func removePrincipal(ctx context.Context, conn *connection, id string) error {
	secrets, err := conn.client.ListOAuthSecrets(ctx, id)
	if err != nil && !isGone(err) && !isKind(err, client.PermissionDenied) {
		return err
	}
	for _, secret := range secrets {
		if err := deleteOAuthSecret(ctx, conn, id, secret.ID); err != nil {
			return err
		}
	}
	return deletePrincipal(ctx, conn, id)
}

// deletePrincipal succeeds when the service principal is gone already.
func deletePrincipal(ctx context.Context, conn *connection, id string) error {
	if err := conn.client.DeleteServicePrincipal(ctx, id); err != nil && !isGone(err) {
		return err
	}
	return nil
}

func (servicePrincipalCredential) warnings(_ *client.Identity, spec credentialSpec) []string {
	return scopeWarnings(spec)
}

// explainNewPrincipal adds to the refusal of a new service principal what to do about it.
func explainNewPrincipal(err error) error {
	switch {
	case isKind(err, client.QuotaExceeded):
		return fmt.Errorf("an account can have 10,000 users and service principals together; revoke leases that are no longer needed, shorten max_ttl, or use %s of one service principal: %w", credentialOAuthToken, err)
	case isKind(err, client.PermissionDenied):
		return fmt.Errorf("only a workspace admin (on an account mount: an account admin) can make service principals, and the engine's identity isn't one: %w", err)
	default:
		return err
	}
}
