// SPDX-License-Identifier: MPL-2.0

package databricks

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/vault/sdk/framework"

	"vault-plugin-secrets-databricks/internal/client"
)

const credentialOAuthSecret = "oauth_secret"

const (
	// maxOAuthSecrets is how many OAuth secrets a service principal can have (Databricks guide "Authorize service principal
	// access with OAuth").
	maxOAuthSecrets = 5

	// maxLifetimeOffset bounds what is added to a secret's lifetime to tell it apart, in seconds.
	maxLifetimeOffset = 60
)

// oauthSecretCredential is an OAuth secret of an existing service principal. It carries no text, so the second-exact
// lifetime and the moment of its creation are its nonce: no two creates for one service principal that could be confused
// ask for the same lifetime.
type oauthSecretCredential struct{ described }

var _ credentialType = oauthSecretCredential{}

var oauthSecretTraits = traits{
	name:      credentialOAuthSecret,
	summary:   "an OAuth secret of a service principal",
	principal: required, static: true, textless: true, limit: maxOAuthSecrets,
	leaseWarning: fmt.Sprintf("A service principal can have %d OAuth secrets, so at most %d leases of it can be alive at once. For more consumers use %s or %s.", maxOAuthSecrets, maxOAuthSecrets, credentialOAuthToken, credentialServicePrincipal),
	answer:       oauthSecretAnswer, secret: keyClientSecret,
}

// oauthSecretAnswer is what answers show of an OAuth secret.
var oauthSecretAnswer = map[string]*framework.FieldSchema{
	keyClientID:     {Type: framework.TypeString, Description: "Client id, which is the application id."},
	keyClientSecret: secretAnswerField("The OAuth secret."),
	keySecretID:     {Type: framework.TypeString, Description: "Id of the secret."},
}

func (oauthSecretCredential) fits(*connection, credentialSpec) error { return nil }

func (oauthSecretCredential) mint(ctx context.Context, conn *connection, r mintRequest) (*minted, error) {
	secret, err := conn.client.CreateOAuthSecret(ctx, r.servicePrincipalID, r.lifetime, r.scopes)
	if err != nil {
		return nil, explainSecretQuota(ctx, conn, r.servicePrincipalID, err)
	}
	return mintedSecret(secret, r.servicePrincipalID, r.applicationID, r.scopes), nil
}

func (oauthSecretCredential) undo(ctx context.Context, conn *connection, _ reach, _ *pass, lost lostCredential) ([]string, error) {
	return undoOAuthSecret(ctx, conn, lost)
}

func (oauthSecretCredential) revoke(ctx context.Context, conn *connection, _ reach, ref credentialRef) error {
	return deleteOAuthSecret(ctx, conn, ref.servicePrincipalID, ref.id)
}

func (oauthSecretCredential) warnings(_ *client.Identity, spec credentialSpec) []string {
	return scopeWarnings(spec)
}

// mintedSecret is a new OAuth secret as an answer shows it.
func mintedSecret(secret *client.OAuthSecret, principalID, applicationID string, scopes []string) *minted {
	m := &minted{id: secret.ID, servicePrincipalID: principalID, twin: secret.Retried, secret: keyClientSecret, data: map[string]any{
		keyClientID:     applicationID,
		keyClientSecret: secret.Value.Reveal(),
		keySecretID:     secret.ID,
		keyScopes:       append([]string{}, scopes...),
	}}
	m.lifetime, m.expires = grantedLife(secret.CreateTime, secret.ExpireTime), secret.ExpireTime
	return m
}

// deleteOAuthSecret succeeds when the secret, or its service principal, is gone already.
func deleteOAuthSecret(ctx context.Context, conn *connection, principalID, id string) error {
	if err := conn.client.DeleteOAuthSecret(ctx, principalID, id); err != nil && !isGone(err) {
		return err
	}
	return nil
}

// errAmbiguous is that nothing tells what was left behind from what belongs to a lease. No repetition changes that.
var errAmbiguous = errors.New("so none is touched")

// undoOAuthSecret removes the secret whose creation was not completed, if exactly one fits. Where several fit, none is
// touched: one may belong to a lease, and the short lifetime ends the other.
func undoOAuthSecret(ctx context.Context, conn *connection, lost lostCredential) (removed []string, err error) {
	if lost.lifetime == 0 {
		return nil, fmt.Errorf("more OAuth secrets of service principal %s were asked for at once than can be told apart, %w; if one was left, it ends by itself by %s", lost.servicePrincipalID, errAmbiguous, rfc3339(lost.expires))
	}
	secrets, err := conn.client.ListOAuthSecrets(ctx, lost.servicePrincipalID)
	if isGone(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var fitting []string
	for _, secret := range secrets {
		life := secret.ExpireTime.Sub(secret.CreateTime).Round(time.Second)
		early, late := lost.started.Add(-stampSlack), lost.started.Add(mintBudget+stampSlack)
		if secret.ID == lost.keep || lost.spared[secret.ID] || secret.ExpireTime.IsZero() || life != lost.lifetime ||
			secret.CreateTime.Before(early) || secret.CreateTime.After(late) {
			continue
		}
		fitting = append(fitting, secret.ID)
	}
	switch len(fitting) {
	case 0:
		return nil, nil
	case 1:
		return fitting, deleteOAuthSecret(ctx, conn, lost.servicePrincipalID, fitting[0])
	default:
		return nil, fmt.Errorf("%d OAuth secrets of service principal %s could be the one whose creation was not completed, %w; it ends by itself by %s", len(fitting), lost.servicePrincipalID, errAmbiguous, rfc3339(lost.expires))
	}
}

// explainSecretQuota adds to the refusal of a sixth secret what the limit is, how many there are, and the way out. The code
// of that refusal isn't documented, so the count decides, unless Databricks wants to be left alone for now.
func explainSecretQuota(ctx context.Context, conn *connection, principalID string, err error) error {
	var remote *client.Error
	if !errors.As(err, &remote) || remote.RetryAfter > 0 || remote.Kind != client.QuotaExceeded && remote.Kind != client.Refused && remote.Kind != client.Throttled {
		return explainPrincipal(err, principalID)
	}
	secrets, listErr := conn.client.ListOAuthSecrets(ctx, principalID)
	if listErr != nil || len(secrets) < maxOAuthSecrets {
		return explainPrincipal(err, principalID)
	}
	return fmt.Errorf("a service principal can have %d OAuth secrets, and %s has %d; revoke a lease of it (vault lease revoke -prefix …), delete a secret made by hand, or use a role of credential_type %s or %s: %w",
		maxOAuthSecrets, principalID, len(secrets), credentialOAuthToken, credentialServicePrincipal, err)
}

// explainPrincipal adds to a refusal about a service principal what to do about it.
func explainPrincipal(err error, principalID string) error {
	switch {
	case isGone(err):
		return fmt.Errorf("there is no service principal %s where the mount is connected; add it there, or correct the role: %w", principalID, err)
	case isKind(err, client.PermissionDenied):
		return fmt.Errorf("the engine's identity must be a workspace admin, or the manager of service principal %s (on an account mount: an account admin): %w", principalID, err)
	default:
		return err
	}
}
