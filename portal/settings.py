"""Settings, all of them, from the environment (or a ``.env`` beside ``manage.py``).

Two ways to run. *Local mode* (``SUBLET_LOCAL=1``, set by ``make run`` and ``make
test``) finds the embedded services of this machine and makes its own secrets.
Everything else is production: secrets and addresses are required, and a missing
one is an error that says what to set. ``.env.example`` lists every variable.
"""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import Any

import environ
from django.core.exceptions import ImproperlyConfigured
from django.utils.translation import gettext_lazy as _

from portal.local.addresses import home_of, local_secrets, read_addresses
from portal.logs import configure_structlog, logging_config

BASE_DIR = Path(__file__).resolve().parent.parent
env = environ.Env()
environ.Env.read_env(BASE_DIR / ".env")


def required(name: str, advice: str) -> str:
    """Return a variable that production cannot do without."""
    value = env.str(name, default="")
    if not value:
        raise ImproperlyConfigured(
            f'{name} is not set. {advice} (To try Sublet on this machine, "make run" needs no settings.)'
        )
    return value


def whole_number(name: str, default: int, *, at_least: int = 0) -> int:
    """Return a variable that must be a whole number, or say so."""
    raw = env.str(name, default=str(default))
    try:
        number = int(raw)
    except ValueError:
        number = at_least - 1
    if number < at_least:
        raise ImproperlyConfigured(f"{name} is {raw!r}: give a whole number of at least {at_least}.")
    return number


# --- where we are ---------------------------------------------------------------------------------
SUBLET_LOCAL = env.bool("SUBLET_LOCAL", default=False)
SUBLET_HOME = home_of(BASE_DIR)
# Local mode without running services: manage.py says so instead of a connection error.
SUBLET_LOCAL_STOPPED = False

DEBUG = False  # templates and errors behave as in production; tracebacks are in the log

if SUBLET_LOCAL:
    _secrets = local_secrets(SUBLET_HOME)
    SECRET_KEY = env.str("SECRET_KEY", default=_secrets["secret_key"])
    SUBLET_FERNET_KEYS = env.list("SUBLET_FERNET_KEYS", default=[_secrets["fernet_key"]])
    ALLOWED_HOSTS = env.list("ALLOWED_HOSTS", default=["localhost", "127.0.0.1", "[::1]", "testserver"])
    SUBLET_PUBLIC_URL = env.str(
        "SUBLET_PUBLIC_URL", default=f"http://localhost:{env.str('PORT', default='8000')}"
    )
    SUBLET_EC2_ENDPOINT = env.str("SUBLET_EC2_ENDPOINT", default="")
    _running = None if env.str("DATABASE_URL", default="") else read_addresses(SUBLET_HOME)
    if _running:
        DATABASE_URL = _running.database_url
        DATABASE_OWNER_URL = _running.database_owner_url
        REDIS_URL = env.str("REDIS_URL", default="") or _running.redis_url
        SUBLET_EC2_ENDPOINT = SUBLET_EC2_ENDPOINT or _running.ec2_endpoint
    else:
        SUBLET_LOCAL_STOPPED = not env.str("DATABASE_URL", default="")
        DATABASE_URL = env.str("DATABASE_URL", default="postgres://sublet_app@/sublet?host=/nonexistent")
        DATABASE_OWNER_URL = env.str("DATABASE_OWNER_URL", default=DATABASE_URL)
        REDIS_URL = env.str("REDIS_URL", default="redis://127.0.0.1:1/0")
else:
    SECRET_KEY = required("SECRET_KEY", "Set it to a long random text and keep it secret.")
    SUBLET_FERNET_KEYS = [
        key
        for key in required(
            "SUBLET_FERNET_KEYS",
            "Set it to one or more Fernet keys, newest first, separated by commas; make one with: python -c "
            '"from cryptography.fernet import Fernet; print(Fernet.generate_key().decode())".',
        ).split(",")
        if key
    ]
    ALLOWED_HOSTS = required(
        "ALLOWED_HOSTS", "Set it to the host names that the site answers to, separated by commas."
    ).split(",")
    SUBLET_PUBLIC_URL = env.str("SUBLET_PUBLIC_URL", default=f"https://{ALLOWED_HOSTS[0].lstrip('.')}")
    SUBLET_EC2_ENDPOINT = env.str("SUBLET_EC2_ENDPOINT", default="")
    DATABASE_URL = required("DATABASE_URL", "Set it to postgres://sublet_app:PASSWORD@HOST:5432/sublet.")
    DATABASE_OWNER_URL = env.str("DATABASE_OWNER_URL", default="")
    REDIS_URL = required("REDIS_URL", "Set it to redis://HOST:6379/0 (Redis or Valkey).")

# --- the product ----------------------------------------------------------------------------------
SUBLET_HOLD_MINUTES = whole_number("SUBLET_HOLD_MINUTES", 15, at_least=1)
SUBLET_OPEN_QUOTES = whole_number("SUBLET_OPEN_QUOTES", 10, at_least=1)
SUBLET_PAYMENT_DEADLINE_HOURS = whole_number("SUBLET_PAYMENT_DEADLINE_HOURS", 24, at_least=1)
# What cancelling a scheduled lease before its start costs, of its price.
SUBLET_CANCELLATION_FEE_PERCENT = whole_number("SUBLET_CANCELLATION_FEE_PERCENT", 0)
SUBLET_TURNAROUND_MINUTES = whole_number("SUBLET_TURNAROUND_MINUTES", 30)
SUBLET_ORPHAN_GRACE_MINUTES = whole_number("SUBLET_ORPHAN_GRACE_MINUTES", 30)
# From when a lease that has begun and has no machine yet is late, and its customer told.
SUBLET_LATE_GRACE_MINUTES = whole_number("SUBLET_LATE_GRACE_MINUTES", 10)
# From where our workers reach machines (networks, CIDR): these may reach SSH beside the customer's, at
# provider accounts whose delivery is tested by SSH. Empty: only the customer's addresses.
SUBLET_PROBE_ADDRESSES = env.list("SUBLET_PROBE_ADDRESSES", default=[])
# This installation's name in the tags of what it makes upstream (sublet:site): machines of another one
# on a shared cloud account are never touched. Empty: a name made once and kept in the database. A copy
# of the database needs a name of its own before its workers start.
SUBLET_SITE_ID = env.str("SUBLET_SITE_ID", default="")
# gRPC (Nebius's SDK) stops its threads around every fork, also one that only starts a program, and has
# left calls without an answer then. Workers fork before they call a cloud, so nothing needs it.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
# The folder of the scripts that hand over and wipe own servers (docs/providers/metal.md). Empty: none run.
SUBLET_HOOKS = env.str("SUBLET_HOOKS", default="")
# Whether a new organization may book at once, or waits until staff have approved it.
SUBLET_AUTO_APPROVE = env.bool("SUBLET_AUTO_APPROVE", default=SUBLET_LOCAL)
SUBLET_CURRENCY = env.str("SUBLET_CURRENCY", default="USD")
# What invoices print about us.
SUBLET_SELLER = {
    "name": env.str("SUBLET_SELLER_NAME", default="Sublet"),
    "address": env.str("SUBLET_SELLER_ADDRESS", default=""),
    "country": env.str("SUBLET_SELLER_COUNTRY", default="US"),
    "tax_id": env.str("SUBLET_SELLER_TAX_ID", default=""),
    "email": env.str("SUBLET_SELLER_EMAIL", default="billing@example.com"),
}
# The largest request body in bytes, by path prefix; the empty prefix is every other path.
SUBLET_BODY_LIMITS = {"": 5 * 2**20, "/admin/billing/vendorbill/": 256 * 2**20}

# --- applications ---------------------------------------------------------------------------------
INSTALLED_APPS = [
    # Ours come first so that our templates win over those of the packages.
    "portal.accounts",
    "portal.notifications",
    "portal.dashboard",
    "portal.api",
    "portal.local",
    "inventory",
    "leases",
    "billing",
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "django.contrib.postgres",
    "django.contrib.humanize",
    "django.forms",
    "allauth",
    "allauth.account",
    "allauth.mfa",
    "rest_framework",
    "drf_spectacular",
    "django_filters",
    "django_htmx",
    "django_structlog",
    "csp",
    "lucide",
]

MIDDLEWARE = [
    "portal.health.HealthMiddleware",
    "django.middleware.security.SecurityMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "csp.middleware.CSPMiddleware",
    "portal.middleware.BodyLimitMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.locale.LocaleMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "portal.dashboard.timezones.TimeZoneMiddleware",
    "django_structlog.middlewares.RequestMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "django_htmx.middleware.HtmxMiddleware",
    "allauth.account.middleware.AccountMiddleware",
    "portal.accounts.middleware.ChosenOrganizationMiddleware",
    "portal.accounts.middleware.StaffMfaMiddleware",
]

ROOT_URLCONF = "portal.urls"
WSGI_APPLICATION = "portal.wsgi.application"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
                "django.template.context_processors.i18n",
                "django.template.context_processors.tz",
                "portal.dashboard.theme.context",
                "portal.dashboard.tenancy.organization_context",
            ],
            "builtins": ["portal.dashboard.templatetags.sublet"],
        },
    }
]

# Every form is drawn by templates/components/form.html and field.html.
FORM_RENDERER = "portal.dashboard.forms.SubletFormRenderer"

# --- data -----------------------------------------------------------------------------------------
if env.str("SUBLET_DB_ROLE", default="app") == "owner":
    if not DATABASE_OWNER_URL:
        raise ImproperlyConfigured(
            "This command changes the schema, which belongs to the role sublet_owner: set DATABASE_OWNER_URL to "
            "postgres://sublet_owner:PASSWORD@HOST:5432/sublet. (The product itself must run as sublet_app.)"
        )
    _dsn = DATABASE_OWNER_URL
else:
    _dsn = DATABASE_URL

_database: dict[str, Any] = dict(environ.Env.db_url_config(_dsn))
if _database["ENGINE"] != "django.db.backends.postgresql":
    raise ImproperlyConfigured(
        "DATABASE_URL must name a PostgreSQL database: postgres://USER:PASSWORD@HOST:5432/NAME."
    )
_database.update(
    ATOMIC_REQUESTS=False,  # public domain functions own their transactions
    CONN_MAX_AGE=60,
    CONN_HEALTH_CHECKS=True,
)
_database.setdefault("OPTIONS", {}).setdefault("connect_timeout", 5)
if (
    "host" in _database["OPTIONS"]
):  # a socket's folder, as libpq writes it: postgres://USER@/NAME?host=/FOLDER
    _database["HOST"] = _database["OPTIONS"].pop("host")
DATABASES = {"default": _database}

_redis_timeouts = {"socket_connect_timeout": 1, "socket_timeout": 2}
CACHES = {
    "default": {
        "BACKEND": "portal.cache.ForgetfulRedisCache",
        # Its own database, so that clearing the cache leaves the broker's queues alone.
        "LOCATION": env.str("CACHE_URL", default="") or REDIS_URL.rsplit("/", 1)[0] + "/1",
        "KEY_PREFIX": "sublet",
        "OPTIONS": _redis_timeouts,
    }
}
SESSION_ENGINE = "django.contrib.sessions.backends.db"  # losing Redis signs nobody out

# --- Celery (the rest is in portal/celery.py) -----------------------------------------------------
CELERY_BROKER_URL = REDIS_URL

# --- who ------------------------------------------------------------------------------------------
AUTH_USER_MODEL = "accounts.User"
AUTHENTICATION_BACKENDS = [
    "django.contrib.auth.backends.ModelBackend",
    "allauth.account.auth_backends.AuthenticationBackend",
]
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": f"django.contrib.auth.password_validation.{name}"}
    for name in (
        "UserAttributeSimilarityValidator",
        "MinimumLengthValidator",
        "CommonPasswordValidator",
        "NumericPasswordValidator",
    )
]
LOGIN_URL = "account_login"
LOGIN_REDIRECT_URL = "/"
ACCOUNT_ADAPTER = "portal.accounts.adapters.AccountAdapter"
ACCOUNT_FORMS = {"signup": "portal.accounts.forms.SignupForm"}
ACCOUNT_USER_MODEL_USERNAME_FIELD: str | None = None
ACCOUNT_LOGIN_METHODS = {"email"}
ACCOUNT_SIGNUP_FIELDS = ["email*", "password1*", "password2*"]
ACCOUNT_EMAIL_VERIFICATION = "mandatory"
ACCOUNT_UNIQUE_EMAIL = True
ACCOUNT_LOGIN_ON_EMAIL_CONFIRMATION = True  # in the browser that signed up, and nowhere else
ACCOUNT_EMAIL_NOTIFICATIONS = True  # tell people when their password or second factor changes
ACCOUNT_REAUTHENTICATION_REQUIRED = True
ACCOUNT_LOGOUT_REDIRECT_URL = "account_login"
ACCOUNT_EMAIL_SUBJECT_PREFIX = ""
ACCOUNT_DEFAULT_HTTP_PROTOCOL = "http" if SUBLET_LOCAL else "https"
MFA_ADAPTER = "portal.accounts.adapters.MFAAdapter"
MFA_SUPPORTED_TYPES = ["totp", "recovery_codes", "webauthn"]
MFA_PASSKEY_LOGIN_ENABLED = True
MFA_TOTP_ISSUER = "Sublet"
MFA_TOTP_TOLERANCE = 1  # a phone's clock may be half a minute off
# Browsers allow passkeys without TLS on http://localhost only, and so does this.
MFA_WEBAUTHN_ALLOW_INSECURE_ORIGIN = SUBLET_LOCAL
# Staff need a second factor, except on one machine where everything is a trial.
SUBLET_STAFF_NEED_MFA = not SUBLET_LOCAL

# --- language and time ----------------------------------------------------------------------------
LANGUAGE_CODE = "en"
LANGUAGES = [("en", _("English"))]
LOCALE_PATHS = [BASE_DIR / "locale"]
USE_I18N = True
USE_TZ = True
TIME_ZONE = "UTC"
USE_THOUSAND_SEPARATOR = False
FORMAT_MODULE_PATH = ["portal.formats"]

# --- files ----------------------------------------------------------------------------------------
STATIC_URL = "/static/"
STATIC_ROOT = Path(env.str("SUBLET_STATIC_ROOT", default=str(BASE_DIR / "staticfiles")))


def _folder_of(package: str, folder: str) -> Path:
    spec = importlib.util.find_spec(package)
    assert spec is not None and spec.origin is not None, f"{package} is in requirements.txt"
    return Path(spec.origin).parent / folder


STATICFILES_DIRS = [
    BASE_DIR / "portal" / "static",
    ("fonts", _folder_of("fontpkg_geist", "files")),
]
STORAGES = {
    "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
    "staticfiles": {"BACKEND": "whitenoise.storage.CompressedManifestStaticFilesStorage"},
}
MEDIA_ROOT = SUBLET_HOME / "media"

# --- requests -------------------------------------------------------------------------------------
DATA_UPLOAD_MAX_MEMORY_SIZE = SUBLET_BODY_LIMITS[""]
DATA_UPLOAD_MAX_NUMBER_FIELDS = 2000

# --- security -------------------------------------------------------------------------------------
CONTENT_SECURITY_POLICY = {
    "DIRECTIVES": {
        "default-src": ["'none'"],
        "script-src": ["'self'"],
        "style-src": ["'self'"],
        "img-src": ["'self'"],
        "font-src": ["'self'"],
        "connect-src": ["'self'"],
        "form-action": ["'self'"],
        "base-uri": ["'none'"],
        "frame-ancestors": ["'none'"],
        "manifest-src": ["'self'"],
    }
}
_tls = not SUBLET_LOCAL
SESSION_COOKIE_SECURE = _tls
SESSION_COOKIE_HTTPONLY = True
SESSION_COOKIE_SAMESITE = "Lax"
CSRF_COOKIE_SECURE = _tls
CSRF_COOKIE_HTTPONLY = True
CSRF_TRUSTED_ORIGINS = env.list("CSRF_TRUSTED_ORIGINS", default=[SUBLET_PUBLIC_URL])
SECURE_SSL_REDIRECT = _tls
SECURE_HSTS_SECONDS = 365 * 24 * 3600 if _tls else 0
SECURE_HSTS_INCLUDE_SUBDOMAINS = _tls
SECURE_HSTS_PRELOAD = _tls
SECURE_CONTENT_TYPE_NOSNIFF = True
SECURE_REFERRER_POLICY = "same-origin"
SECURE_CROSS_ORIGIN_OPENER_POLICY = "same-origin"
X_FRAME_OPTIONS = "DENY"
if env.bool("SUBLET_BEHIND_PROXY", default=False):
    # Only behind a proxy that always sets (and never passes through) this header.
    SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")
    # Limits on sign-in count by the client's address, not by the proxy's.
    ALLAUTH_TRUSTED_PROXY_COUNT = 1

# --- mail -----------------------------------------------------------------------------------------
vars().update(env.email("EMAIL_URL", default="consolemail://" if SUBLET_LOCAL else "smtp://localhost:25"))
DEFAULT_FROM_EMAIL = env.str("DEFAULT_FROM_EMAIL", default="Sublet <noreply@localhost>")
SERVER_EMAIL = DEFAULT_FROM_EMAIL
EMAIL_TIMEOUT = 10

# --- REST -----------------------------------------------------------------------------------------
REST_FRAMEWORK: dict[str, Any] = {
    "DEFAULT_AUTHENTICATION_CLASSES": [
        "portal.api.authentication.TokenAuthentication",
        "rest_framework.authentication.SessionAuthentication",
    ],
    "DEFAULT_PERMISSION_CLASSES": [
        "rest_framework.permissions.IsAuthenticated",
        "portal.api.permissions.HasScope",
    ],
    "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
    "DEFAULT_PARSER_CLASSES": ["portal.api.parsers.JSON"],
    "DEFAULT_SCHEMA_CLASS": "drf_spectacular.openapi.AutoSchema",
    "DEFAULT_FILTER_BACKENDS": ["django_filters.rest_framework.DjangoFilterBackend"],
    "DEFAULT_THROTTLE_CLASSES": ["portal.api.throttles.Reads"],
    "DEFAULT_THROTTLE_RATES": {"reads": "600/min", "writes": "60/min"},
    "EXCEPTION_HANDLER": "portal.api.errors.handle",
    "NUM_PROXIES": 1 if env.bool("SUBLET_BEHIND_PROXY", default=False) else 0,
    "TEST_REQUEST_DEFAULT_FORMAT": "json",
}
SPECTACULAR_SETTINGS: dict[str, Any] = {
    "TITLE": "Sublet API",
    "DESCRIPTION": "Reserve GPU capacity, follow leases, read invoices and usage.",
    "VERSION": "1.0.0",
    "SERVE_INCLUDE_SCHEMA": False,
    "ENUM_NAME_OVERRIDES": {
        "LeaseState": "leases.models.Lease.State",
        "QuoteState": "billing.models.Quote.State",
        "InvoiceState": "billing.models.Invoice.State",
        "QuoteKind": "billing.models.Quote.Kind",
        "ChargeKind": "billing.models.Charge.Kind",
        "Purchase": "inventory.models.Offer.Purchase",
        "OfferAvailability": "inventory.models.Offer.Availability",
    },
}

# --- logs -----------------------------------------------------------------------------------------
configure_structlog()
LOGGING = logging_config(json=not SUBLET_LOCAL, level=env.str("LOG_LEVEL", default="INFO"))
DJANGO_STRUCTLOG_CELERY_ENABLED = True

SENTRY_DSN = env.str("SENTRY_DSN", default="")
if SENTRY_DSN:
    import sentry_sdk

    from portal.reports import sentry_options

    sentry_sdk.init(dsn=SENTRY_DSN, **sentry_options())
