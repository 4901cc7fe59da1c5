"""What Airlock adds to Airflow: its operators, their links and triggers, and the console.

May import `tasks` and Airflow, no training library.
"""
